#!/usr/bin/env python3
"""Writes face-worker/tests/reference/encodings.json with what Python's face_recognition says about the test photos.

Run it again only when the photos or the reference change:

    python3 -m venv target/reference && target/reference/bin/pip install 'setuptools<81' numpy Pillow==10.4.0 \
        dlib==19.24.6 face_recognition==1.3.0 face_recognition_models==0.3.0
    cargo build --release -p face-worker --example pixels
    target/reference/bin/python scripts/reference-encodings.py

Decoders differ by more than the encodings may, so the photos are decoded by the worker's own decoder, and the sum of the
pixels is stored with the result. Default settings: HOG with one upsampling, 5-point ("small") landmarks, no jitter.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import tempfile

import face_recognition
import numpy
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
PHOTOS = pathlib.Path(os.environ.get("MICROLAMBDA_PHOTOS", ROOT / "target/data/photos"))
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
# A picture of more than one tile is searched by the worker in other pieces than by Python: there only the encodings
# of Python's boxes are compared. Halved often enough, each photo is one tile.
TILE_SIDE_PX_MAX = 640


def halvings(photo):
    width, height = Image.open(photo).size
    count = 0
    while max(width, height) > TILE_SIDE_PX_MAX:
        width, height, count = width // 2, height // 2, count + 1
    return sorted({0, count})


def entry(photo, halved, png):
    subprocess.run([TARGET / "release/examples/pixels", photo, str(halved), png], check=True)
    pixels = numpy.array(Image.open(png))
    assert pixels.ndim == 3 and pixels.shape[2] == 3
    boxes = face_recognition.face_locations(pixels)
    encodings = face_recognition.face_encodings(pixels, boxes)
    return {
        "photo": str(photo.relative_to(PHOTOS)),
        "halvings": halved,
        "width_px": pixels.shape[1],
        "height_px": pixels.shape[0],
        "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "faces": [
            {
                "left": left,
                "top": top,
                "right": right,
                "bottom": bottom,
                "encoding": [float(numpy.float32(value)) for value in encoding],
            }
            for (top, right, bottom, left), encoding in zip(boxes, encodings)
        ],
    }


def main():
    photos = sorted((PHOTOS / "people").iterdir()) + [PHOTOS / "faceless/chelsea.png", PHOTOS / "faceless/coins.png"]
    with tempfile.TemporaryDirectory() as directory:
        png = pathlib.Path(directory) / "pixels.png"
        entries = [entry(photo, halved, png) for photo in photos for halved in halvings(photo)]
    out = ROOT / "face-worker/tests/reference/encodings.json"
    lines = ",\n".join(json.dumps(e) for e in entries)
    out.write_text("[\n" + lines + "\n]\n")


main()
