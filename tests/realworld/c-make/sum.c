#include <stdlib.h>

#include "sum.h"

long sum(int count, char **numbers) {
  long total = 0;
  for (int i = 0; i < count; i++) total += strtol(numbers[i], NULL, 10);
  return total;
}
