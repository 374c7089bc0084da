import sys

from adder import add

print(add(*map(int, sys.argv[1:])))
