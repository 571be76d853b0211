"""A tiny HTTP server: /health says ok once `delay` seconds have passed; /slow never answers."""

import http.server
import sys
import time

port, delay = int(sys.argv[1]), float(sys.argv[2])
ready_at = time.monotonic() + delay


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ready = self.path == "/health" and time.monotonic() >= ready_at
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()


http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
