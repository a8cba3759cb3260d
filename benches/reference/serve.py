"""Looks at pictures with Python's face_recognition and its defaults, for the benchmarks `python` and `video`.

On standard input: for each picture its length (four bytes, the highest first), then the file. On standard output: one line of JSON that
says what this is, then one for each picture with its boxes and what each step took, ms.
"""

import importlib.metadata
import io
import json
import struct
import sys
import time

import dlib
import face_recognition


def say(value):
    print(json.dumps(value), flush=True)


def look(file):
    cpu_s, began_s = time.process_time(), time.perf_counter()
    pixels = face_recognition.load_image_file(io.BytesIO(file))
    decoded_s = time.perf_counter()
    boxes = face_recognition.face_locations(pixels)
    searched_s = time.perf_counter()
    face_recognition.face_encodings(pixels, boxes)
    ended_s = time.perf_counter()
    return {
        "decode_ms": 1e3 * (decoded_s - began_s),
        "search_ms": 1e3 * (searched_s - decoded_s),
        "encode_ms": 1e3 * (ended_s - searched_s),
        "cpu_ms": 1e3 * (time.process_time() - cpu_s),
        "boxes": [[left, top, right, bottom] for top, right, bottom, left in boxes],
    }


def main():
    # Without BLAS dlib encodes several times as slowly.
    built = f"{dlib.__version__} ({'with' if dlib.DLIB_USE_BLAS else 'without'} BLAS)"
    say({"version": importlib.metadata.version("face_recognition"), "dlib": built})
    while header := sys.stdin.buffer.read(4):
        say(look(sys.stdin.buffer.read(struct.unpack(">I", header)[0])))


main()
