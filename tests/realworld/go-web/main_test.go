package main

import (
	"strings"
	"testing"
)

func TestGreeting(t *testing.T) {
	if !strings.HasPrefix(greeting(""), "hello, world") {
		t.Fatal(greeting(""))
	}
}
