long sum(int count, char **numbers);
