import http.server
import os
import pwd

import tinyroute


@tinyroute.route("/")
def index():
    return f"hello from {pwd.getpwuid(os.getuid()).pw_name}\n"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = tinyroute.ROUTES.get(self.path)
        self.send_response(200 if answer else 404)
        self.end_headers()
        self.wfile.write(answer().encode() if answer else b"no such page\n")

    def log_message(self, *args):
        pass


port = int(os.environ.get("PORT", "8000"))
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
print(f"listening on {port}")
server.serve_forever()
