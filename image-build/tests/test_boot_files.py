"""The check of the boot partition, on partitions made up for it."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "image-build"))
import boot_files  # noqa: E402

CONFIG = (ROOT / "image-build/recipe/firmware/config.txt").read_text()
COMMAND_LINE = (ROOT / "image-build/recipe/firmware/cmdline.txt").read_bytes()
PLAIN_KERNEL = bytes(56) + b"ARM\x64" + bytes(4)
TREES = ["2712-rpi-5-b", "2712-d-rpi-5-b", "2712d0-rpi-5-b", "2711-rpi-4-b", "2711-rpi-400", "2711-rpi-cm4-io", "2837-rpi-3-b", "2837-rpi-3-b-plus", "2837-rpi-3-a-plus"]
TREES += ["2837-rpi-cm3-io3", "2837-rpi-zero-2-w"]
FIRMWARE = ["bootcode.bin", "start.elf", "fixup.dat", "start_cd.elf", "fixup_cd.dat", "start4.elf", "fixup4.dat", "start4cd.elf", "fixup4cd.dat"]
BUILT_IN = ["mmc_block", "pcie-brcmstb"]


def newc(files):
    """An archive as the kernel unpacks it."""
    archive = b""
    for name, content in [*files.items(), ("TRAILER!!!", b"")]:
        numbers = [0, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        archive += b"070701" + b"".join(b"%08x" % number for number in numbers) + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4) + content
        archive += bytes(-len(archive) % 4)
    return archive + bytes(-len(archive) % 512)


def ram_disk(without=(), compress=lambda archive: archive):
    """As mkinitramfs makes it: modules, which are compressed themselves, in an archive of their own, and then all the rest."""
    needed = {module for board in boot_files.BOARDS.values() for module in board.modules} | set(boot_files.MODULES)
    held = sorted(needed - set(without) - {module.replace("-", "_") for module in BUILT_IN})
    modules = {f"usr/lib/modules/7.1.0-arm64/kernel/drivers/{module.replace('_', '-')}.ko.xz": b"module" for module in held}
    built_in = "".join(f"kernel/drivers/{module}.ko\n" for module in BUILT_IN).encode()
    return newc(modules) + compress(newc({"usr/lib/modules/7.1.0-arm64/modules.builtin": built_in, "init": b"#!/bin/sh\n"}))


def missing(**changes):
    """What is wrong with a partition that is whole but for these changes; a file that is None is not there."""
    files = {"config.txt": CONFIG.encode(), "cmdline.txt": COMMAND_LINE, "vmlinuz": PLAIN_KERNEL, "initrd.img": ram_disk()}
    files |= dict.fromkeys([*FIRMWARE, *(f"bcm{tree}.dtb" for tree in TREES)], b"")
    files = {name: content for name, content in (files | changes).items() if content is not None}
    with mock.patch.object(boot_files, "names", lambda _: set(files)), mock.patch.object(boot_files, "read", lambda _, name: files[name]):
        return boot_files.missing("an image")


class BootFiles(unittest.TestCase):
    def test_nothing_is_wrong_with_a_whole_partition(self):
        self.assertEqual(missing(), [])

    def test_with_the_least_of_graphics_memory_the_firmware_that_is_cut_down_is_loaded(self):
        self.assertIn("gpu_mem=16\n", CONFIG)
        self.assertEqual(missing(**{"start_cd.elf": None}), ["pi3: no start_cd.elf", "pi02: no start_cd.elf"])
        self.assertEqual(missing(**{"fixup4cd.dat": None}), ["pi4: no fixup4cd.dat"])
        self.assertEqual(missing(**{"start.elf": None, "fixup.dat": None, "start4.elf": None, "fixup4.dat": None}), [])
        whole = CONFIG.replace("gpu_mem=16\n", "gpu_mem=64\n").encode()
        self.assertEqual(missing(**{"config.txt": whole, "start4.elf": None, "start4cd.elf": None}), ["pi4: no start4.elf"])

    def test_each_stepping_of_a_board_has_its_tree(self):
        for tree in ["bcm2712-d-rpi-5-b.dtb", "bcm2712d0-rpi-5-b.dtb"]:
            self.assertEqual(missing(**{tree: None}), [f"pi5: no {tree}"])

    def test_memory_for_devices_is_where_the_device_tree_wants_it(self):
        wrong = missing(**{"cmdline.txt": COMMAND_LINE.strip() + b" cma=64M\n"})
        self.assertEqual([sentence.split(":")[0] for sentence in wrong], list(boot_files.BOARDS))
        self.assertIn("cmdline.txt sets cma=", wrong[0])

    def test_the_kernel_is_one_that_the_firmware_starts(self):
        wrong = missing(vmlinuz=b"MZ\0\0zimg" + bytes(48) + b"\xcd\x23\x82\x81")
        self.assertEqual([sentence.split(":")[0] for sentence in wrong], list(boot_files.BOARDS))
        self.assertIn("vmlinuz is no plain arm64 kernel", wrong[0])

    def test_the_ram_disk_holds_what_is_on_the_way_to_a_boards_disk(self):
        self.assertEqual(missing(**{"initrd.img": ram_disk(["rp1_pci"])}), ["pi5: initrd.img lacks the module rp1_pci"])
        self.assertEqual(len(missing(**{"initrd.img": ram_disk(["uas"])})), len(boot_files.BOARDS))

    @unittest.skipUnless(shutil.which("zstd"), "zstd is not installed")
    def test_a_ram_disk_that_is_compressed_is_read_too(self):
        def compress(archive):
            return subprocess.run(["zstd", "--stdout"], check=True, capture_output=True, input=archive).stdout

        self.assertEqual(missing(**{"initrd.img": ram_disk([], compress)}), [])
        self.assertEqual(missing(**{"initrd.img": ram_disk(["dwc3"], compress)}), ["pi5: initrd.img lacks the module dwc3"])

    def test_imager_is_told_of_when_the_image_is_and_of_no_board_that_has_no_tree(self):
        with tempfile.TemporaryDirectory() as folder:
            image, manifest, root = (Path(folder, name) for name in ["image", "manifest", "root.tar"])
            image.write_text("an image")
            release = b"ID=debian\nIMAGE_ID=microlambda\nIMAGE_VERSION=0.1.0-20261124\n"
            with tarfile.open(root, "w") as tar:
                info = tarfile.TarInfo("./usr/lib/os-release")
                info.size = len(release)
                tar.addfile(info, io.BytesIO(release))
            describe = [sys.executable, ROOT / "image-build/describe", "manifest", root, image, image, "https://an.example/image", manifest]
            subprocess.run(describe, check=True)
            described = json.loads(manifest.read_text())
        devices, entry = described["imager"]["devices"], described["os_list"][0]
        self.assertEqual((entry["name"], entry["release_date"]), ("MicroLambda 0.1.0-20261124", "2026-11-24"))
        told = {model.strip() for device in devices if device["tags"] for model in device["description"].split(",")}
        self.assertEqual(told, {model for board in boot_files.BOARDS.values() for model, trees in board.models.items() if trees})


if __name__ == "__main__":
    unittest.main()
