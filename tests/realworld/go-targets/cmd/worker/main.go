package main

import (
	"fmt"

	"example.com/targets/internal/names"
)

func main() { fmt.Println(names.Of("worker")) }
