throw new Error("never in an image");
