//! What a failed connection means, and what to do about it.

use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::{ConnectReturnCode, ConnectionError, StateError};

use crate::broker::BrokerUrl;
use crate::connection::NETWORK_TIMEOUT;
use crate::link::LinkConfig;

/// What went wrong and what to do, in one line.
pub(crate) fn explain(error: &ConnectionError, answered: bool, broker: &BrokerUrl, config: &LinkConfig) -> String {
    match error {
        ConnectionError::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
            format!(
                "nothing listens at {broker}: start the broker there (for example mosquitto) or correct `url` in [broker]"
            )
        }
        ConnectionError::Io(io) if broker.host.ends_with(".local") && io.to_string().contains("lookup") => format!(
            "{broker}: {io}; names that end with .local need mDNS on this computer: install libnss-resolve or libnss-mdns"
        ),
        ConnectionError::Io(io) => format!("{broker}: {io}; check the network and `url` in [broker]"),
        ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => {
            format!(
                "{broker} does not answer within {} s: check the address, the network and the firewall",
                NETWORK_TIMEOUT.as_secs()
            )
        }
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => format!("{broker} refuses this client: check `username` and `password-file` in [broker]"),
        ConnectionError::ConnectionRefused(code) => format!("{broker} refuses the connection: {code:?}"),
        ConnectionError::Tls(tls) => format!("no TLS connection to {broker}: {tls}; {}", tls_remedy(&tls.to_string())),
        ConnectionError::MqttState(why) if !answered && !broker.tls => format!(
            "{broker} gives no answer ({why}): if it speaks TLS on this port, write mqtts:// in `url` in [broker]"
        ),
        ConnectionError::MqttState(StateError::Deserialization(PacketError::PayloadSizeLimitExceeded(bytes))) => {
            let max = config.packet_bytes_max;
            format!(
                "{broker} sends a message of {bytes} bytes, larger than the {max} that are taken. If it comes again and again, the \
                 broker keeps it: find it with `mosquitto_sub --retained-only -W 5 -F '%l %t' -t 'microlambda/#'`, clear it with \
                 `mosquitto_pub -r -n -t TOPIC`, and set `max_packet_size {max}` in the broker's configuration"
            )
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) => format!(
            "{broker} closed the connection: it stopped, or another client uses the id {:?} too: give each its \
             own `node` or `camera`",
            config.client_id
        ),
        ConnectionError::MqttState(StateError::AwaitPingResp) => format!("{broker} has fallen silent"),
        other => format!("{broker}: {other}"),
    }
}

/// Whether the broker sent more than is taken: if it keeps that message, every connection ends so until a person clears it.
pub(crate) fn is_oversized(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::MqttState(StateError::Deserialization(PacketError::PayloadSizeLimitExceeded(_))))
}

/// What to do about a failed handshake; OpenSSL's reason is known by its text alone.
fn tls_remedy(why: &str) -> &'static str {
    if why.contains("mismatch") {
        "the broker's certificate is for another host: write a name that it holds in `url` in [broker], or give the broker one for this name"
    } else if why.contains("certificate has expired") {
        "the broker's certificate, or its authority's, has expired: renew it; or this computer's clock is ahead: set it"
    } else if why.contains("not yet valid") {
        "this computer's clock is behind, or the broker's certificate, or its authority's, starts in the future: set the clock, or renew it"
    } else if why.contains("certificate verify failed") {
        "no trusted authority signed the broker's certificate: `ca-file` in [broker] names the one that did"
    } else {
        "check `ca-file` in [broker] and that the broker speaks TLS on this port"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::PACKET_BYTES_MAX_DEFAULT;

    fn told(error: &ConnectionError) -> String {
        let broker = BrokerUrl { host: "broker".into(), port: 1883, tls: false };
        explain(error, true, &broker, &LinkConfig::new(broker.clone(), "node"))
    }

    #[test]
    fn a_message_over_the_bound_is_named_with_the_way_to_find_it_and_to_be_rid_of_it() {
        let bytes = PACKET_BYTES_MAX_DEFAULT + 1;
        let error =
            ConnectionError::MqttState(StateError::Deserialization(PacketError::PayloadSizeLimitExceeded(bytes)));
        assert!(is_oversized(&error));
        let why = told(&error);
        for part in [
            "a message of 20971521 bytes, larger than the 20971520",
            "mosquitto_sub --retained-only",
            "mosquitto_pub -r -n -t TOPIC",
            "`max_packet_size 20971520`",
        ] {
            assert!(why.contains(part), "{part}: {why}");
        }
        let aborted = ConnectionError::MqttState(StateError::ConnectionAborted);
        assert!(!is_oversized(&aborted) && told(&aborted).contains("another client"), "{}", told(&aborted));
        assert!(told(&aborted).ends_with("give each its own `node` or `camera`"), "{}", told(&aborted));
    }

    #[test]
    fn a_certificate_out_of_its_time_is_not_taken_for_one_of_a_strange_authority() {
        let remedy =
            |reason: &str| tls_remedy(&format!("error:0A000086:SSL routines:certificate verify failed:: ({reason})"));
        assert!(remedy("certificate has expired").contains("renew it"));
        assert!(remedy("certificate is not yet valid").contains("clock is behind"));
        assert!(remedy("unable to get local issuer certificate").contains("no trusted authority"));
        assert!(remedy("Hostname mismatch").contains("another host"));
    }
}
