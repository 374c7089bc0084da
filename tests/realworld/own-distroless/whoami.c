#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

int main(void) {
  struct passwd *entry = getpwuid(getuid());
  printf("%s in %s\n", entry ? entry->pw_name : "nobody", entry ? entry->pw_dir : "nowhere");
  return 0;
}
