"""The service's own tests, run while the image is built."""

import io
import json
import unittest

import _words
from tally.app import app


def ask(method, path, body=b""):
    """One request: status line and body."""
    status = []
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    chunks = app(environ, lambda line, headers: status.append(line))
    return status[0], b"".join(chunks)


class Words(unittest.TestCase):
    def test_counts(self):
        self.assertEqual(_words.count("a b a"), {"a": 2, "b": 1})

    def test_keeps_letters_of_all_languages(self):
        self.assertEqual(
            _words.count("Ærø, Ærø; it's well-made."), {"Ærø": 2, "it's": 1, "well-made": 1}
        )

    def test_needs_text(self):
        with self.assertRaises(TypeError):
            _words.count(b"bytes")


class Routes(unittest.TestCase):
    def test_counts_the_body(self):
        status, body = ask("POST", "/count", b"To be or not to be")
        self.assertEqual(status, "200 OK")
        self.assertEqual(json.loads(body), {"be": 2, "to": 2, "not": 1, "or": 1})

    def test_health(self):
        self.assertEqual(ask("GET", "/healthz"), ("200 OK", b"ok\n"))

    def test_unknown(self):
        self.assertEqual(ask("GET", "/nowhere")[0], "404 Not Found")
        self.assertEqual(ask("DELETE", "/count")[0], "405 Method Not Allowed")
