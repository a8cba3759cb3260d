"""Reads the boot partition of a disk image the way a board's firmware does: what config.txt selects for which board.

The names are those of Raspberry Pi's documentation of config.txt; with `upstream_kernel=1` a device tree has the name that Linux gives it.
"""

import subprocess
from dataclasses import dataclass, field

OFFSET = 4 << 20  # of the boot partition, bytes
# What every board has to have in its RAM disk to find the disk that it starts from, as modules or in the kernel: for all, and for disks on USB.
MODULES = ["mmc_block", "sd_mod", "usb_storage", "uas", "ext4", "overlay", "vfat", "nls_ascii", "nls_cp437", "nls_utf8"]
# The marks of a plain arm64 kernel, which is all that a board's firmware starts, of a newc archive, and of what zstd compressed.
KERNEL_MARK_AT, KERNEL_MARK = 56, b"ARM\x64"
NEWC_MARK, ZSTD_MARK = b"070701", b"\x28\xb5\x2f\xfd"


@dataclass
class Board:
    """Boards that config.txt's filters take for one."""

    # Which filters hold.
    filters: list[str]
    # Which models, with the device trees that Linux has for them.
    models: dict[str, list[str]]
    # Drivers of its card, of its USB, and of what is on the way to them.
    modules: list[str]
    # What its boot ROM loads from the card; what the number of its further firmware is, if that is on the card.
    rom: list[str] = field(default_factory=list)
    firmware: str | None = None


# The boards' own USB 2 controller.
USB_2 = ["dwc2", "phy_generic"]
BOARDS = {
    "pi3": Board(
        filters=["pi3"],
        models={
            "Raspberry Pi 3 Model B": ["bcm2837-rpi-3-b"],
            "3 Model B+": ["bcm2837-rpi-3-b-plus"],
            "3 Model A+": ["bcm2837-rpi-3-a-plus"],
            "Compute Module 3": ["bcm2837-rpi-cm3-io3"],
        },
        modules=["bcm2835", "sdhci_iproc", *USB_2],
        rom=["bootcode.bin"],
        firmware="",
    ),
    "pi02": Board(
        filters=["pi3", "pi02"],
        models={"Raspberry Pi Zero 2 W": ["bcm2837-rpi-zero-2-w"]},
        modules=["bcm2835", "sdhci_iproc", *USB_2],
        rom=["bootcode.bin"],
        firmware="",
    ),
    # Its USB is behind PCIe, and gets its own firmware by way of the reset; that of a compute module is the older boards'.
    "pi4": Board(
        filters=["pi4"],
        models={"Raspberry Pi 4 Model B": ["bcm2711-rpi-4-b"], "400": ["bcm2711-rpi-400"], "Compute Module 4": ["bcm2711-rpi-cm4-io"]},
        modules=["sdhci_iproc", "fixed", "gpio_regulator", "pcie_brcmstb", "reset_raspberrypi", "xhci_pci", *USB_2],
        firmware="4",
    ),
    # Its firmware is on the board. USB is in RP1, a chip behind PCIe, whose interrupts are delivered by a controller of their own (MIP). The processor's
    # stepping D0 has another tree, which Linux and Raspberry Pi's own kernel call by different names; which of them the firmware asks for is not
    # documented, so it is there under both.
    "pi5": Board(
        filters=["pi5"],
        models={"Raspberry Pi 5": ["bcm2712-rpi-5-b", "bcm2712-d-rpi-5-b", "bcm2712d0-rpi-5-b"]},
        modules=[
            *["sdhci_brcmstb", "pinctrl_brcmstb_bcm2712", "gpio_brcmstb", "fixed", "gpio_regulator"],
            *["pcie_brcmstb", "irq_bcm2712_mip", "rp1_pci", "clk_rp1", "pinctrl_rp1", "dwc3", "xhci_plat_hcd", "nvme"],
        ],
    ),
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


def firmware(board, chosen):
    """The firmware that a board loads: with the least of memory for graphics the one that is cut down."""
    if board.firmware is None:
        return []
    cut = chosen.get("gpu_mem") == "16"
    # start.elf, start_cd.elf, start4.elf, start4cd.elf.
    suffix = board.firmware + ("cd" if board.firmware else "_cd") * cut
    return [*board.rom, f"start{suffix}.elf", f"fixup{suffix}.dat"]


def selected(image, name):
    """The files that a board boots from: kernel, RAM disk and command line; the firmware's own; device trees."""
    board = BOARDS[name]
    chosen = settings(read(image, "config.txt").decode(), board.filters)
    if chosen.get("upstream_kernel") != "1" or chosen.get("arm_64bit") != "1":
        raise ValueError(f"config.txt does not select a 64-bit upstream kernel for {name}")
    files = {"kernel": chosen["kernel"], "initramfs": chosen["initramfs"], "cmdline": chosen.get("cmdline", "cmdline.txt")}
    return files, firmware(board, chosen), [f"{tree}.dtb" for trees in board.models.values() for tree in trees]


def unpacked(archive):
    """Name and content of each file in a RAM disk: archives one after the other, the last of which may be compressed."""
    at = 0
    while at < len(archive):
        if archive.startswith(ZSTD_MARK, at):
            archive, at = subprocess.run(["zstd", "--decompress", "--stdout"], check=True, capture_output=True, input=archive[at:]).stdout, 0
        elif archive.startswith(NEWC_MARK, at):
            numbers = [int(archive[at + place : at + place + 8], 16) for place in range(6, 110, 8)]
            size, name_size = numbers[6], numbers[11]
            name = archive[at + 110 : at + 110 + name_size - 1].decode()
            start = (at + 110 + name_size + 3) & ~3
            at = (start + size + 3) & ~3
            if name != "TRAILER!!!":
                yield name, archive[start : start + size]
        elif archive[at] == 0:
            at += 1
        else:
            raise ValueError(f"the RAM disk holds what is neither a newc archive nor compressed by zstd, at byte {at}")


def modules(archive):
    """The modules that a RAM disk holds, or whose code the kernel it is for has built in, with _ in their names."""
    found = []
    for name, content in unpacked(archive):
        if name.endswith("/modules.builtin"):
            found += content.decode().split()
        elif "/modules/" in name and ".ko" in name:
            found.append(name)
    return {path.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_") for path in found}


def missing(image):
    """What is wrong with what config.txt selects for one of the boards, as sentences: files that are not there, a kernel, a RAM disk or a command line
    of no use."""
    have = names(image)
    wrong, plain, held = [], {}, {}
    for name, board in BOARDS.items():
        files, own, trees = selected(image, name)
        wrong += [f"{name}: no {file}" for file in [*files.values(), *own, *trees] if file not in have]
        kernel, ram_disk, command_line = files["kernel"], files["initramfs"], files["cmdline"]
        if command_line in have and any(word.startswith(b"cma=") for word in read(image, command_line).split()):
            wrong.append(f"{name}: {command_line} sets cma=, which puts aside where the device tree wants that memory: a Pi 4 may not start with it")
        # Boards share them, as a rule.
        if kernel in have and kernel not in plain:
            plain[kernel] = read(image, kernel).startswith(KERNEL_MARK, KERNEL_MARK_AT)
        if ram_disk in have and ram_disk not in held:
            held[ram_disk] = modules(read(image, ram_disk))
        if not plain.get(kernel, True):
            wrong.append(f"{name}: {kernel} is no plain arm64 kernel, which is all that the firmware starts")
        if ram_disk in held:
            wrong += [f"{name}: {ram_disk} lacks the module {module}" for module in [*MODULES, *board.modules] if module not in held[ram_disk]]
    return wrong
