const fs = require("fs");
const path = require("path");

const [from, to] = process.argv.slice(2);
fs.mkdirSync(to, { recursive: true });
for (const name of fs.readdirSync(from)) {
  const text = fs.readFileSync(path.join(from, name), "utf8");
  const page = `<title>${process.env.SITE_TITLE}</title>\n${text}`;
  fs.writeFileSync(path.join(to, name.replace(".txt", ".html")), page);
}
