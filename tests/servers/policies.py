"""A policy host for MTA-STS: ADDRESS PORT CERT KEY POLICIES.json, which maps host names to policies. One that starts with
`https:` is where the request is redirected to."""
import http.server
import json
import ssl
import sys

address, port, certificate, key, policies = sys.argv[1:6]
with open(policies) as file:
    known = json.load(file)


class Host(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = known.get(self.headers["Host"].split(":")[0])
        if text is None or self.path != "/.well-known/mta-sts.txt":
            return self.send_error(404)
        if text.startswith("https:"):
            self.send_response(302)
            self.send_header("Location", text)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server = http.server.ThreadingHTTPServer((address, int(port)), Host)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
