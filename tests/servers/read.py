"""Reads messages that smtp-sink kept, strictly, and verifies their signatures with keys from a file."""
import email, email.policy, json, re, sys
import dkim

keys = dict(line.rstrip("\n").split("\t") for line in open(sys.argv[1]) if "\t" in line)


def published(name, timeout=5):
    name = name.decode() if isinstance(name, bytes) else name
    return keys.get(name.rstrip("."), "").encode() or None


def verify(raw):
    found = []
    count = sum(name.lower() == b"dkim-signature" for name, _ in dkim.DKIM(raw).headers)
    for index in range(count):
        signature = dkim.DKIM(raw)
        try:
            valid = signature.verify(idx=index, dnsfunc=published)
        except dkim.DKIMException as why:
            valid = False
            print(why, file=sys.stderr)
        found.append({"domain": signature.domain.decode() if signature.domain else "", "valid": bool(valid)})
    return found


def argument(message, name):
    text = str(message.get(name, ""))
    inside = re.search(r"<([^>]*)>", text)
    return inside.group(1) if inside else text


for path in sys.argv[2:]:
    raw = re.sub(rb"\r?\n", b"\r\n", open(path, "rb").read())
    message = email.message_from_bytes(raw, policy=email.policy.default)
    defects = [repr(defect) for part in message.walk() for defect in part.defects]
    for part in message.walk():
        for name, value in part.items():
            defects += [f"{name}: {defect!r}" for defect in getattr(value, "defects", [])]
        if not part.is_multipart():
            part.get_content()
    print(json.dumps({
        "recipient": argument(message, "X-Rcpt-Args"),
        "sender": argument(message, "X-Mail-Args"),
        "message_id": str(message["Message-ID"]),
        "parts": [part.get_content_type() for part in message.walk()],
        "defects": defects,
        "signatures": verify(raw),
    }))
