#!/bin/sh
echo "Hello, ${NAME:-nobody}, from $(uname -s) on $(uname -m)."
