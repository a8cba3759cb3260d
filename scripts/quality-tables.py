#!/usr/bin/env python3
"""Prints the tables of docs/quality.md from what the example `quality` of face-worker wrote.

    scripts/quality-tables.py calibration.jsonl blur.jsonl small.jsonl faceless.jsonl reported.jsonl

docs/quality.md names the photos and scales of each file. Needs nothing but Python.
"""

import json
import math
import sys

SHARPNESS = [0, 2, 3, 4, 6, 10, 20, 50, 200, 10_000]
SIDES_PX = [30, 38, 45, 60, 100, 400]
THRESHOLDS = [0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70]
NEW_PERSON_SCORE_MIN = 0.4
# Centres of the six faces of t1.jpg at scale 1, px.
STILL_CENTRES_PX = [121, 316, 505, 783, 937, 1174]


def read(path):
    with open(path) as lines:
        return [face for face in map(json.loads, lines) if face.get("encoding")]


def distance(a, b):
    return math.dist(a["encoding"], b["encoding"])


def name(face):
    return face["photo"].rsplit("/", 1)[-1]


def side(face):
    left, top, right, bottom = face["box"]
    return min(right - left, bottom - top) + 1


def person(face):
    """The folder-like beginning of a name such as John_Simm_000288_00470387.jpg; None for other photos."""
    return name(face).rsplit("_", 2)[0] if name(face).startswith("John_") else None


def quantile(values, part):
    values = sorted(values)
    return values[min(int(len(values) * part), len(values) - 1)]


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def weakest(calibration, faceless):
    faces = [f for f in calibration if f["score"] < 0.6] + faceless
    table(
        ["photo", "scale", "box", "score", "sharpness"],
        [
            (name(f), round(f["scale"], 2), f["box"], f"{f['score']:.2f}", f"{f['sharpness']:.1f}")
            for f in sorted(faces, key=lambda f: f["score"])
        ],
    )


def curve(calibration):
    known = [f for f in calibration if f["scale"] == 1.0 and person(f)]
    pairs = [(a, b) for i, a in enumerate(known) for b in known[i + 1:] if a["photo"] != b["photo"]]
    same = [distance(a, b) for a, b in pairs if person(a) == person(b)]
    other = [distance(a, b) for a, b in pairs if person(a) != person(b)]
    nearest = [
        min(distance(a, b) for b in known if b["photo"] != a["photo"] and person(b) == person(a)) for a in known
    ]
    print(f"{len(known)} faces, {len(same)} pairs of one person, {len(other)} pairs of two\n")
    table(
        ["threshold", "pairs of one person above", "faces with no other of the person below", "pairs of two below"],
        [
            (
                f"{t:.2f}",
                f"{sum(d >= t for d in same) / len(same):.1%}",
                f"{sum(d >= t for d in nearest)} of {len(nearest)}",
                f"{sum(d < t for d in other) / len(other):.2%}",
            )
            for t in THRESHOLDS
        ],
    )


def drift(faces, originals):
    """Distance of a changed photo's face to the same face of the unchanged photo."""
    for face in faces:
        scale = face["scale"]
        centre = [(face["box"][0] + face["box"][2]) / 2 / scale, (face["box"][1] + face["box"][3]) / 2 / scale]
        for original in originals:
            left, top, right, bottom = original["box"]
            if original["photo"] == face["photo"] and left < centre[0] < right and top < centre[1] < bottom:
                yield face, distance(face, original)
                break


def binned(label, key, edges, pairs):
    rows = []
    for low, high in zip(edges, edges[1:]):
        values = [d for face, d in pairs if low <= key(face) < high]
        if values:
            cells = [f"{quantile(values, part):.2f}" for part in (0.5, 0.9, 1.0)]
            rows.append((f"{low} to {high}", len(values), *cells))
    table([label, "faces", "median", "90 %", "largest"], rows)


def truth(face):
    if name(face) == "t1.jpg":
        centre = (face["box"][0] + face["box"][2]) / 2 / face["scale"]
        return "still %d" % min(range(6), key=lambda i: abs(STILL_CENTRES_PX[i] - centre))
    if name(face) == "astronaut.png":
        return "astronaut" if face["box"][1] / face["scale"] < 120 else "the suit"
    return "Biden" if name(face).startswith("biden") else "Obama"


def people(faces, threshold):
    known = []
    for face in faces:
        nearest = min(((distance(face, k), who) for who in known for k in who), default=(9, None), key=lambda n: n[0])
        if nearest[0] < threshold:
            nearest[1].append(face)
        elif face["score"] >= NEW_PERSON_SCORE_MIN:
            known.append([face])
    return known


def counts(reported):
    scales = sorted({f["scale"] for f in reported}, reverse=True)
    rows = []
    for t in THRESHOLDS:
        groups = [people(reported, t)] + [people([f for f in reported if f["scale"] == s], t) for s in scales]
        mixed = sum(len({truth(f) for f in who}) > 1 for who in groups[0])
        rows.append((f"{t:.2f}", *(len(g) for g in groups), mixed))
    table(["threshold", "all scales", *(f"{s:.2f}" for s in scales), "mixed"], rows)


def main():
    calibration, blur, small, faceless, reported = map(read, sys.argv[1:6])
    reported = [f for f in reported if f["score"] >= 0]
    print("## Weak detections of the calibration photos\n")
    weakest(calibration, faceless)
    print("## Distances over the threshold\n")
    curve(calibration)
    print("## Distance to the unblurred face, by sharpness\n")
    binned("sharpness", lambda f: f["sharpness"], SHARPNESS,
           list(drift([f for f in blur if f["blur"] > 0], [f for f in blur if f["blur"] == 0])))
    print("## Distance to the full-size face, by side\n")
    binned("side, px", side, SIDES_PX,
           list(drift([f for f in small if f["scale"] < 1], [f for f in small if f["scale"] == 1])))
    print("## Reported photos\n")
    table(
        ["photo", "who", "side, px", "score", "sharpness"],
        [(name(f), truth(f), side(f), f"{f['score']:.2f}", f"{f['sharpness']:.0f}")
         for f in reported if f["scale"] == 1.0],
    )
    table(
        ["who", "lowest score", "lowest sharpness", "smallest side, px"],
        [
            (who, f"{min(f['score'] for f in fs):.2f}", f"{min(f['sharpness'] for f in fs):.1f}", min(map(side, fs)))
            for who in sorted({truth(f) for f in reported})
            for fs in [[f for f in reported if truth(f) == who]]
        ],
    )
    counts(reported)


main()
