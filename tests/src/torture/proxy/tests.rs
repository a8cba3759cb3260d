//! A proxy between two plain sockets.

use std::net::Ipv4Addr;

use rumqttc::mqttbytes::v4::Packet;

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Both ends of a connection through a proxy with these manners: the client's, the broker's.
fn ends(manners: Manners) -> (Proxy, TcpStream, TcpStream) {
    let broker = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let proxy = Proxy::start(LOOPBACK, vec![broker.local_addr().unwrap()], 1).unwrap();
    proxy.behave(|now| *now = manners);
    let client = TcpStream::connect(proxy.address()).unwrap();
    let (served, _) = broker.accept().unwrap();
    for end in [&client, &served] {
        end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    (proxy, client, served)
}

fn publish(pkid: u16) -> Packet {
    Packet::Publish(Publish { pkid, ..Publish::new("t", QoS::AtLeastOnce, pkid.to_string()) })
}

fn send(mut to: &TcpStream, packets: impl IntoIterator<Item = Packet>) {
    let mut bytes = BytesMut::new();
    for packet in packets {
        packet.write(&mut bytes, PACKET_BYTES_MAX).unwrap();
    }
    to.write_all(&bytes).unwrap();
}

fn receive(mut from: &TcpStream, count: usize) -> Vec<Packet> {
    let (mut buffer, mut packets) = (BytesMut::new(), Vec::new());
    while packets.len() < count {
        match Packet::read(&mut buffer, PACKET_BYTES_MAX) {
            Ok(packet) => packets.push(packet),
            Err(_) => {
                let mut chunk = [0; 1024];
                let bytes = from.read(&mut chunk).unwrap();
                assert!(bytes > 0, "closed after {packets:?}");
                buffer.extend_from_slice(&chunk[..bytes]);
            }
        }
    }
    packets
}

#[test]
fn a_polite_proxy_changes_nothing_and_keeps_the_order() {
    let (proxy, client, broker) = ends(Manners::default());
    let packets: Vec<Packet> = (1..=500).map(publish).chain([Packet::PingReq]).collect();
    send(&client, packets.clone());
    assert_eq!(receive(&broker, packets.len()), packets);
    assert_eq!(proxy.counts(), Counts { messages: 500, connections: 1, ..Counts::default() });
}

#[test]
fn what_is_lost_is_acknowledged_to_its_sender_and_never_arrives() {
    for from_client in [true, false] {
        let (_proxy, client, broker) = ends(Manners { lost_permille: 1_000, ..Manners::default() });
        let (from, to) = if from_client { (client, broker) } else { (broker, client) };
        send(&from, [publish(7), Packet::PingReq]);
        assert_eq!(receive(&from, 1), [Packet::PubAck(PubAck::new(7))]);
        assert_eq!(receive(&to, 1), [Packet::PingReq]);
    }
}

#[test]
fn a_repeated_message_comes_again_without_a_packet_id() {
    let (_proxy, client, broker) = ends(Manners { repeated_permille: 1_000, delay_ms_max: 5, ..Manners::default() });
    send(&broker, [publish(7)]);
    let Packet::Publish(copy) = &receive(&client, 2)[1] else { panic!("a message") };
    assert_eq!((copy.qos, &copy.payload[..]), (QoS::AtMostOnce, &b"7"[..]));
}

#[test]
fn late_messages_change_places_and_all_arrive() {
    let (_proxy, client, broker) = ends(Manners { late_permille: 500, delay_ms_max: 50, ..Manners::default() });
    send(&client, (1..=100).map(publish));
    let mut came: Vec<u16> = Vec::new();
    for packet in receive(&broker, 100) {
        let Packet::Publish(publish) = packet else { panic!("a message") };
        came.push(publish.pkid);
    }
    assert!(!came.is_sorted(), "{came:?}");
    came.sort_unstable();
    assert_eq!(came, (1..=100).collect::<Vec<_>>());
}

#[test]
fn a_stalled_line_passes_nothing_until_it_goes_on_and_a_cut_one_is_closed_on_both_sides() {
    let (proxy, mut client, mut broker) = ends(Manners { stalled: true, ..Manners::default() });
    send(&client, [Packet::PingReq]);
    broker.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(broker.read(&mut [0; 8]).is_err(), "nothing comes");
    proxy.behave(|manners| manners.stalled = false);
    broker.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(receive(&broker, 1), [Packet::PingReq]);
    assert_eq!(proxy.cut(), 1);
    assert_eq!(broker.read(&mut [0; 8]).unwrap_or(0), 0);
    assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0);
}

#[test]
fn another_broker_is_found_where_the_first_is_gone() {
    let gone = TcpListener::bind((LOOPBACK, 0)).unwrap().local_addr().unwrap();
    let broker = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let proxy = Proxy::start(LOOPBACK, vec![gone, broker.local_addr().unwrap()], 1).unwrap();
    let client = TcpStream::connect(proxy.address()).unwrap();
    let (served, _) = broker.accept().unwrap();
    served.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    send(&client, [Packet::PingReq]);
    assert_eq!(receive(&served, 1), [Packet::PingReq]);
}
