"""A receiver on aiosmtpd: ADDRESS PORT LOG.jsonl [--tls CERT KEY] [--mailmax N]. Writes one line for each message it took,
and one for each MAIL above its limit (RFC 9422), which it refuses."""
import argparse
import json
import ssl
import time

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

options = argparse.ArgumentParser()
options.add_argument("address")
options.add_argument("port", type=int)
options.add_argument("log")
options.add_argument("--tls", nargs=2)
options.add_argument("--mailmax", type=int)
options = options.parse_args()


def note(**line):
    with open(options.log, "a") as file:
        file.write(json.dumps(line) + "\n")


class Handler:
    async def handle_EHLO(self, server, session, envelope, name, responses):
        session.host_name = name
        session.mails = 0
        if options.mailmax:
            responses.insert(-1, f"250-LIMITS MAILMAX={options.mailmax} RCPTMAX=ten")
        return responses

    async def handle_MAIL(self, server, session, envelope, address, mail_options):
        session.mails += 1
        if options.mailmax and session.mails > options.mailmax:
            note(over=True, peer=session.peer)
            return "421 4.7.0 too many messages in this session"
        envelope.mail_from = address
        envelope.mail_options.extend(mail_options)
        return "250 2.1.0 OK"

    async def handle_DATA(self, server, session, envelope):
        text = (envelope.original_content or envelope.content).decode("ascii", "replace")
        note(peer=session.peer, tls=bool(session.ssl), sender=envelope.mail_from, options=envelope.mail_options,
             recipients=envelope.rcpt_tos, message=text)
        return "250 2.0.0 OK"


class Receiver(Controller):
    def factory(self):
        more = {}
        if options.tls:
            more["tls_context"] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            more["tls_context"].load_cert_chain(*options.tls)
        return SMTP(self.handler, enable_SMTPUTF8=True, hostname="aiosmtpd.example", **more)


Receiver(Handler(), hostname=options.address, port=options.port).start()
while True:
    time.sleep(3600)
