package names

func Of(what string) string { return "this is the " + what }
