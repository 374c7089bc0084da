const http = require("http");
const plural = require("plural");

let visits = 0;
const port = Number(process.env.PORT || 3000);
http
  .createServer((request, response) => {
    visits += 1;
    response.end(`${plural(visits, "visit")} in ${process.env.NODE_ENV}\n`);
  })
  .listen(port, "127.0.0.1", () => console.log(`listening on ${port}`));
