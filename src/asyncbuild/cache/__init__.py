"""What was built before: keys of inputs, and places that remember what came of them."""
