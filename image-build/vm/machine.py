"""A board in emulation, started from a finished image: its kernel, RAM disk, device tree and command line are those that the image's config.txt names."""

import base64
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import boot_files  # noqa: E402
from scenario import Failure  # noqa: E402

DISK_BYTES = 4 << 30  # of the card: a power of two, as the emulated controller wants, and larger than the image, as cards are
STEP_S = 300  # one try of a step
SSH = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20"]
# A board that is switched off says no goodbye.
SSH += ["-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=6"]
PRESEED = """[user]
name = "tester"
passwordless_sudo = true
[ssh]
authorized_keys = ["@KEY@"]
"""

# What the emulator is told for a board, what is changed in the command line, and the device tree. The virtual board is no Raspberry Pi: it brings
# its own device tree, and its serial port has another number than a Pi 5's. (Named beside it, a port that is not there keeps the kernel from
# taking the one that is.) The emulated Pi 3 is reset as soon as its watchdog is started, instead of when it runs out.
BOARDS = {
    "virt": (
        ["-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-device", "virtio-blk-pci,drive=card", "-device", "virtio-rng-pci"],
        ("console=ttyAMA10,115200", "console=ttyAMA0"),
        None,
    ),
    # With an interface of its own on USB, as the real board's is not emulated. Its console is its second serial port.
    "raspi3b": (["-M", "raspi3b", "-usb", "-no-reboot", "-serial", "null"], ("rootwait", "rootwait systemd.watchdog_sec=0"), "bcm2837-rpi-3-b.dtb"),
}
DRIVES = {"virt": "if=none,id=card", "raspi3b": "if=sd"}


class Machine:
    """One board with a card of its own."""

    def __init__(self, name, image, scenario, folder, logs, key):
        self.name, self.folder, self.key = name, folder, key
        self.board = scenario.get("board", "virt")
        self.memory_mib = scenario.get("memory-mib", 1024)
        self.shares_a_network = len(scenario.get("machines", ["node"])) > 1
        self.index = scenario.get("machines", ["node"]).index(name)
        self.peer = next((other for other in scenario.get("machines", []) if other != name), None)
        self.console, self.card = logs / f"{logs.name}-{name}.console", folder / f"{name}.img"
        self.console.write_text("")
        self.process, self.starts, self.port = None, 0, None
        subprocess.run(["cp", "--sparse=always", image, self.card], check=True)
        with self.card.open("r+b") as card:
            card.truncate(DISK_BYTES)
        for file, text in {"rpi-preseed.toml": PRESEED, **scenario.get("boot", {}).get(name, {})}.items():
            boot_files.write(self.card, file, text.replace("@KEY@", key.with_suffix(".pub").read_text().strip()).encode())

    def start(self):
        """Switches it on."""
        machine, change, tree = BOARDS[self.board]
        files, _, _ = boot_files.selected(self.card, "pi3")
        options = []
        for option, file in [("-kernel", files["kernel"]), ("-initrd", files["initramfs"]), *([("-dtb", tree)] if tree else [])]:
            path = self.folder / f"{self.name}-{file}"
            path.write_bytes(boot_files.read(self.card, file))
            options += [option, str(path)]
        command_line = boot_files.read(self.card, files["cmdline"]).decode().strip()
        if change:
            command_line = command_line.replace(*change)
        memory = [] if self.board == "raspi3b" else ["-m", f"{self.memory_mib}M"]
        self.starts += 1
        part = self.folder / f"{self.name}-{self.starts}.console"
        network = ["-netdev", "user,id=out,hostfwd=tcp:127.0.0.1:0-:22", "-device", self.nic("out", 0)]
        if self.shares_a_network:
            ours, theirs = (self.folder / f"{name}.link" for name in (self.name, self.peer))
            network += ["-netdev", f"dgram,id=lan,local.type=unix,local.path={ours},remote.type=unix,remote.path={theirs}"]
            network += ["-device", self.nic("lan", 1)]
            ours.unlink(missing_ok=True)
        self.part = part
        self.process = subprocess.Popen(
            ["qemu-system-aarch64", *machine, *memory, "-accel", "tcg,thread=multi", "-display", "none", "-no-user-config"]
            + ["-drive", f"{DRIVES[self.board]},file={self.card},format=raw,cache=writeback"]
            + ["-serial", f"file:{part}", "-monitor", "stdio", *options, "-append", command_line, *network],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.port = self.forwarded_port()

    def nic(self, network, number):
        device = "usb-net" if self.board == "raspi3b" else "virtio-net-pci,romfile="
        return f"{device},netdev={network},mac=52:54:00:6d:{self.index:02x}:{number:02x}"

    def forwarded_port(self):
        """The port of this computer at which its SSH answers; the emulator chose one."""
        self.process.stdin.write(b"info usernet\n")
        self.process.stdin.flush()
        said = ""
        while not (found := re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", said)):
            piece = self.process.stdout.read1(4096)
            if not piece:
                raise Failure(f"{self.name}: the emulator has ended:\n{said}")
            said += piece.decode(errors="replace")
        return int(found[1])

    def cut_power(self):
        """Switches it off without a word."""
        if self.process:
            self.process.kill()
            self.process.wait()
            with self.console.open("a") as console:
                console.write(self.said())
            self.process = None

    def said(self):
        """What its serial console has printed since it was switched on."""
        return self.part.read_bytes().decode(errors="replace") if self.part.exists() else ""

    def is_on(self):
        """Whether it is switched on and has not ended by itself."""
        return self.process is not None and self.process.poll() is None

    def run(self, script):
        """A script's exit status and what it printed, as root, through SSH; 255 while nothing answers."""
        if not self.is_on():
            raise Failure(f"{self.name} has ended")
        encoded = base64.b64encode(script.encode()).decode()
        remote = f"echo {encoded} | base64 -d | sudo timeout {STEP_S} bash -o pipefail -s"
        return self.ssh(["ssh", "-p", str(self.port), *SSH, "-i", str(self.key), "tester@127.0.0.1", remote])

    def upload(self, sources, target):
        """Copies files into a folder."""
        status, text = self.run(f"mkdir -p {target} && chmod 777 {target}")
        if status:
            return status, text
        return self.ssh(["scp", "-q", "-P", str(self.port), *SSH, "-i", str(self.key), *map(str, sources), f"tester@127.0.0.1:{target}/"])

    @staticmethod
    def ssh(command):
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=STEP_S + 30)
        except subprocess.TimeoutExpired:
            return 254, "no answer"
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace").strip("\n")

    def await_shutdown(self, seconds):
        """Waits until it has switched itself off."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return 0, "off"
            time.sleep(1)
        return 1, "still on"
