"""Reads the boot partition of a disk image the way a board's firmware does: what config.txt selects for which board.

The names are those of Raspberry Pi's documentation of config.txt; with `upstream_kernel=1` a device tree has the name that Linux gives it.
"""

import subprocess

OFFSET = 4 << 20  # of the boot partition, bytes

# Per board of the documentation's filters: which filters hold, what its boot ROM or firmware loads, and its device trees in Linux.
BOARDS = {
    "pi3": (["pi3"], ["bootcode.bin", "start.elf", "fixup.dat"], ["bcm2837-rpi-3-b", "bcm2837-rpi-3-b-plus", "bcm2837-rpi-3-a-plus"]),
    "pi02": (["pi3", "pi02"], ["bootcode.bin", "start.elf", "fixup.dat"], ["bcm2837-rpi-zero-2-w"]),
    "pi4": (["pi4"], ["start4.elf", "fixup4.dat"], ["bcm2711-rpi-4-b", "bcm2711-rpi-400", "bcm2711-rpi-cm4-io"]),
    # Its firmware is on the board.
    "pi5": (["pi5"], [], ["bcm2712-rpi-5-b"]),
}


def names(image):
    """The files of the boot partition."""
    listing = subprocess.run(["mdir", "-b", "-i", f"{image}@@{OFFSET}", "::"], check=True, capture_output=True, text=True)
    return {line.removeprefix("::/") for line in listing.stdout.splitlines()}


def read(image, name):
    """A file of the boot partition, as bytes."""
    return subprocess.run(["mtype", "-i", f"{image}@@{OFFSET}", f"::{name}"], check=True, capture_output=True).stdout


def write(image, name, content):
    """Puts a file on the boot partition, in place of one of that name."""
    subprocess.run(["mcopy", "-o", "-i", f"{image}@@{OFFSET}", "-", f"::{name}"], check=True, input=content)


def settings(config, filters):
    """What config.txt says for a board: its key-value lines under the filters that hold."""
    chosen, holds = {}, True
    for line in config.splitlines():
        line = line.split("#", 1)[0].strip()
        if line.startswith("["):
            holds = line.strip("[]") in [*filters, "all"]
        elif holds and line.startswith("initramfs "):
            chosen["initramfs"] = line.split()[1]
        elif holds and "=" in line:
            key, value = line.split("=", 1)
            chosen[key.strip()] = value.strip()
    return chosen


def selected(image, board):
    """The files that a board boots from: the firmware's own, kernel, RAM disk, command line, device trees."""
    filters, firmware, trees = BOARDS[board]
    chosen = settings(read(image, "config.txt").decode(), filters)
    if chosen.get("upstream_kernel") != "1" or chosen.get("arm_64bit") != "1":
        raise ValueError(f"config.txt does not select a 64-bit upstream kernel for {board}")
    files = {"kernel": chosen["kernel"], "initramfs": chosen["initramfs"], "cmdline": chosen.get("cmdline", "cmdline.txt")}
    return files, firmware, [f"{tree}.dtb" for tree in trees]


def missing(image):
    """What config.txt selects for one of the boards and is not there, as sentences."""
    have = names(image)
    wrong = []
    for board in BOARDS:
        files, firmware, trees = selected(image, board)
        wrong += [f"{board}: no {name}" for name in [*files.values(), *firmware, *trees] if name not in have]
    return wrong
