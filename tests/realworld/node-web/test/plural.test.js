const test = require("node:test");
const assert = require("node:assert");
const plural = require("plural");

test("plural", () => {
  assert.equal(plural(1, "visit"), "1 visit");
  assert.equal(plural(2, "visit"), "2 visits");
});
