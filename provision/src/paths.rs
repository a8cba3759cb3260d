//! Where things lie on the machine.

/// The camera agent's configuration; the service starts only if it is there.
pub const CAMERA: &str = "/etc/microlambda/camera.toml";
/// The camera agent's state: its spool.
pub const CAMERA_STATE: &str = "/var/lib/microlambda/camera";
/// The edge agent's configuration; the service starts only if it is there.
pub const EDGE: &str = "/etc/microlambda/edge.toml";
/// What the packages put in their place when they are installed, unless something is there: no device shall run on it.
pub const CAMERA_EXAMPLE: &str = "/usr/share/microlambda/camera.example.toml";
/// The edge agent's.
pub const EDGE_EXAMPLE: &str = "/usr/share/microlambda/edge.example.toml";
/// The camera agent's password for the broker, handed over by the service manager.
pub const CAMERA_PASSWORD: &str = "/etc/credstore/microlambda-camera-mqtt-password";
/// The edge agent's.
pub const EDGE_PASSWORD: &str = "/etc/credstore/microlambda-edge-mqtt-password";
/// The certificate by which the site's broker is known; for everybody.
pub const SITE_CA: &str = "/etc/microlambda/site-ca.pem";
/// Key and certificate of the site's authority; root's alone.
pub const AUTHORITY: &str = "/etc/microlambda/authority/authority.pem";
/// The passwords of the site; root's alone.
pub const CREDENTIALS: &str = "/etc/microlambda/authority/credentials.json";
/// mosquitto's settings; the broker starts only if they are there.
pub const BROKER: &str = "/etc/mosquitto/conf.d/microlambda.conf";
/// mosquitto's passwords, hashed.
pub const BROKER_PASSWORDS: &str = "/etc/mosquitto/microlambda.passwords";
/// mosquitto's access rules.
pub const BROKER_ACL: &str = "/etc/mosquitto/microlambda.acl";
/// mosquitto's certificate, the authority's, and the key.
pub const BROKER_CERTIFICATE: &str = "/etc/mosquitto/microlambda-broker.pem";
/// How the network learns of the broker.
pub const ANNOUNCEMENT: &str = "/etc/systemd/dnssd/microlambda.dnssd";
/// Join files, root's alone.
pub const JOINS: &str = "/var/lib/microlambda-join";
/// What this program remembers.
pub const STATE_DIR: &str = "/var/lib/microlambda-provision";
/// The same, in one file.
pub const STATE: &str = "/var/lib/microlambda-provision/state.json";
/// What is wrong, for the login message.
pub const PROBLEMS: &str = "/var/lib/microlambda-provision/problems.txt";
/// What is wrong, on the boot partition.
pub const BOOT_PROBLEMS: &str = "microlambda-problems.txt";
/// How SSH is set.
pub const SSHD: &str = "/etc/ssh/sshd_config.d/10-microlambda.conf";
/// Public keys, by user; root's, so that no user can lead a write astray.
pub const SSH_KEYS: &str = "/etc/ssh/authorized_keys.d";
/// The SSH server does not start if this is there.
pub const SSH_OFF: &str = "/etc/microlambda/ssh-off";
/// The wireless network; its supplicant starts only if it is there.
pub const WLAN: &str = "/etc/wpa_supplicant/wpa_supplicant-wlan0.conf";
/// The name of the board, from its device tree.
pub const BOARD: &str = "/proc/device-tree/model";
/// Time zones.
pub const ZONES: &str = "/usr/share/zoneinfo";

/// There if this start has no data partition: what is written now is gone at the next.
pub const DATA_LOST: &str = "/run/microlambda/data-lost";

/// There if a time service runs.
pub const TIMESYNC: &str = "/run/systemd/timesync";
/// There once a time server has answered since the start.
pub const CLOCK_SET: &str = "/run/systemd/timesync/synchronized";

/// The kernel's lists of TCP connections, as the first process sees them: a service may have a network of its own.
pub const TCP: &str = "/proc/1/net/tcp";
/// The same for IPv6.
pub const TCP6: &str = "/proc/1/net/tcp6";
/// Which image the device was flashed with.
pub const OS_RELEASE: &str = "/etc/os-release";

/// Files whose presence a plan depends on.
pub const OURS: [&str; 12] = [
    AUTHORITY,
    CREDENTIALS,
    CAMERA,
    EDGE,
    CAMERA_PASSWORD,
    EDGE_PASSWORD,
    SITE_CA,
    BROKER,
    BROKER_PASSWORDS,
    BROKER_CERTIFICATE,
    SSHD,
    ANNOUNCEMENT,
];
