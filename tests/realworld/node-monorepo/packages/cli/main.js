console.log(words.join(" "));
