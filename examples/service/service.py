"""Detect over HTTP: python examples/service/service.py model_final.pth.

A request is an image: curl --data-binary @photo.jpg localhost:8000.
The answer is JSON: {"detections": [{"box": [x1, y1, x2, y2], "score": 0.9, "name": "cat"}]}, or {"error": "..."}.
The service has no encryption and no login: put a reverse proxy in front of it. Only 127.0.0.1 can connect by default.
"""

import argparse
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image, ImageOps

from detlite import Detector

MAX_BYTES, MAX_PIXELS, TIMEOUT = 20 * 2**20, 50_000_000, 10  # of a request's file, of its image, in seconds
UNREADABLE = "the body cannot be read as a JPEG, PNG or WebP image; send the file's bytes alone, without a form"


class Handler(BaseHTTPRequestHandler):
    detector, one_at_a_time, timeout = None, threading.Lock(), TIMEOUT

    def do_GET(self):
        self.answer(200, {"classes": list(self.detector.classes), "usage": "send an image's bytes by POST"})

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            return self.answer(411, {"error": "expected an image as the request's body, with its Content-Length"})
        if len(length) > 12 or int(length) > MAX_BYTES:
            return self.answer(413, {"error": f"the file has {length[:12]} bytes, expected at most {MAX_BYTES}"})
        body = io.BytesIO(self.rfile.read(int(length)))
        with self.one_at_a_time:  # bounds the memory
            try:
                image = Image.open(body, formats=("JPEG", "PNG", "WEBP"))
                if image.width * image.height > MAX_PIXELS:
                    size = f"{image.width} x {image.height}"
                    return self.answer(413, {"error": f"the image is {size}, expected at most {MAX_PIXELS} pixels"})
                image = ImageOps.exif_transpose(image)
            except Exception:  # a broken image raises anything
                return self.answer(400, {"error": UNREADABLE})
            found = self.detector(image)
        rows = zip(found["boxes"].tolist(), found["scores"].tolist(), found["names"], strict=True)
        self.answer(200, {"detections": [{"box": box, "score": score, "name": name} for box, score, name in rows]})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("weights")
    arguments.add_argument("host", nargs="?", default="127.0.0.1")
    arguments.add_argument("port", nargs="?", default=8000, type=int)
    options = arguments.parse_args()
    Handler.detector = Detector.from_checkpoint(options.weights, score_threshold=0.5)
    server = ThreadingHTTPServer((options.host, options.port), Handler)
    print(f"listening on http://{options.host}:{server.server_port}", flush=True)
    server.serve_forever()
