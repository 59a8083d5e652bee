"""What the tests want of the server beside itself, as a WSGI wrapper: /__peer/stats counts, /__peer/fault spoils the
answers to token requests, other /__peer/ paths are the application's own. Everything else reaches the wrapped server
as it came. One line per request goes to stderr, with tokens and secrets: the tests look for them in the client's log.
"""
import io, json, sys, threading, time
from urllib.parse import parse_qsl

ANSWERS = {  # status, content type, further headers, body
    "500": ("500 Internal Server Error", "text/html", [], b"<h1>Server Error (500)</h1>"),
    "503": ("503 Service Unavailable", "application/json", [("Retry-After", "1")], b'{"error":"temporarily_unavailable"}'),
    "html": ("200 OK", "text/html", [], b"<html><body>login</body></html>"),
    "empty": ("200 OK", "application/json", [], b"{}"),
}


class Peer:
    def __init__(self, app, token_paths, controls):
        self.app, self.token_paths, self.controls = app, token_paths, controls
        self.lock = threading.Lock()
        self.stats = {"token_requests": 0, "token_by_status": {}, "api_by_status": {}}
        self.fault = {}

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        if path.startswith("/__peer/"):
            return self.control(path.removeprefix("/__peer/"), body, environ, start_response)
        is_token = path in self.token_paths
        answer = None
        if is_token:
            with self.lock:
                self.stats["token_requests"] += 1
            time.sleep(int(self.fault.get("delay_ms", 0)) / 1000)
            answer = ANSWERS.get(self.fault.get("answer"))

        said = []

        def observed(status, headers, exc_info=None):
            with self.lock:
                count = self.stats["token_by_status" if is_token else "api_by_status"]
                count[status[:3]] = count.get(status[:3], 0) + 1
            said.append(status)
            return start_response(status, headers, *([exc_info] if exc_info else []))

        if answer:
            status, kind, further, text = answer
            observed(status, [("Content-Type", kind), ("Content-Length", str(len(text))), *further])
            chunks = [text]
        else:
            inner = self.app(environ, observed)
            chunks = list(inner)
            inner.close()
        line = {"path": path, "status": said[0][:3], "authorization": environ.get("HTTP_AUTHORIZATION")}
        if is_token:
            line.update(request=body.decode("utf-8", "replace"), answer=b"".join(chunks).decode("utf-8", "replace"))
        sys.stderr.write("PEER " + json.dumps(line) + "\n")
        return chunks

    def control(self, what, body, environ, start_response):
        out = {}
        with self.lock:
            if what == "stats":
                out = self.stats
            elif what == "fault":
                self.fault = dict(parse_qsl(environ.get("QUERY_STRING", "")))
        if what in self.controls:
            out = self.controls[what](body.decode()) or {}
        out = json.dumps(out).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(out)))])
        return [out]
