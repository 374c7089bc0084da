const fs = require("fs");
const path = require("path");

const words = fs.readFileSync(require.resolve("@mono/words"), "utf8");
const main = fs.readFileSync(path.join(__dirname, "main.js"), "utf8");
const tests = fs.readdirSync(__dirname).filter((name) => name.endsWith(".test.js"));
if (tests.length) throw new Error(`tests are in the build: ${tests}`);
process.stdout.write(`const words = (() => { const module = {}; ${words}; return module.exports; })();\n${main}`);
