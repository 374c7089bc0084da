package main

import (
	"fmt"
	"net/http"
	"os"
)

var version = "unset"

func greeting(name string) string {
	if name == "" {
		name = "world"
	}
	return fmt.Sprintf("hello, %s, from %s as %d\n", name, version, os.Getuid())
}

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, greeting(r.URL.Query().Get("name")))
	})
	fmt.Printf("listening on %s\n", port)
	panic(http.ListenAndServe("127.0.0.1:"+port, nil))
}
