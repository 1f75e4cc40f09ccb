//! The vectors of `docs/protocol.md`: this crate writes exactly those bytes, and reads them back to the same values.
//! A vector on the page that is not made here, or one made here that is not on the page, fails the test.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

use l4proxy_wire::address;
use l4proxy_wire::channel::{ChannelHeader, Datagram, Fragment, Frame, frames};
use l4proxy_wire::codes::Reason;
use l4proxy_wire::hello::{Hello, Report, Reports};
use l4proxy_wire::ids::{ChannelId, FlowId, Label, LinkId, PathId, PopId, SessionId};
use l4proxy_wire::keys::{Epoch, HopKey, ProbeKey};
use l4proxy_wire::link_down::LinkDown;
use l4proxy_wire::open::{Open, Protocol};
use l4proxy_wire::outer::{self, Labels, OuterHeader};
use l4proxy_wire::probe::{Probe, ProbeReply, ProbeRequest};
use l4proxy_wire::repair::Repair;
use l4proxy_wire::stream::{
    Answer, AnswerDecoder, ControlDecoder, ControlHello, ControlMessage, Credit, OpenDecoder, Role,
    encode_answer, encode_bus, encode_open,
};
use l4proxy_wire::stripe::{ChunkHeader, decode_stripe, encode_stripe};

const PAGE: &str = include_str!("../../../../docs/protocol.md");
const DATAGRAM: &[u8] = b"ping";

type Vectors = BTreeMap<String, Vec<u8>>;

/// The lines of the page's block, in its order, as bytes.
fn on_the_page() -> Vectors {
    let (_, after) = PAGE.split_once("```vectors\n").expect("the page has a vectors block");
    let (block, _) = after.split_once("```").expect("the block ends");
    let lines = block.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let (name, hex) = line.split_once(": ").expect("name: hex");
            let digits = hex.as_bytes().as_chunks::<2>();
            assert!(digits.1.is_empty(), "an odd number of digits: {line}");
            let byte = |pair: &[u8; 2]| {
                let text = std::str::from_utf8(pair).expect("ASCII");
                u8::from_str_radix(text, 16).expect("hexadecimal")
            };
            (name.to_owned(), digits.0.iter().map(byte).collect())
        })
        .collect()
}

/// `0x10, 0x11, …`: hop keys of the vectors, one per hop.
fn hop_key(hop: u8) -> HopKey {
    HopKey::new(std::array::from_fn(|i| (hop << 4) + i as u8))
}

fn probe_key() -> ProbeKey {
    ProbeKey::new(std::array::from_fn(|i| 0xf0 + i as u8))
}

fn client() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 50_000))
}

fn listener() -> SocketAddr {
    SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 25_565))
}

fn open() -> Open<'static> {
    Open {
        protocol: Protocol::Tcp,
        flow: FlowId(0x0123_4567_89ab_cdef),
        app: "minecraft",
        origin: "origin.example.net",
        client: client(),
        listener: listener(),
        deadline_ms: 5_000,
    }
}

fn outer_at(pointer: u8) -> OuterHeader {
    let labels = Labels::new(&[Label(0x1111_1111), Label(0x2222_2222), Label(0x3333_3333)]);
    OuterHeader {
        pointer,
        worker: 1,
        epoch: Epoch::new(5),
        source: PopId(0xaabb_ccdd),
        labels: labels.expect("three labels"),
    }
}

fn hello(report_count: u32) -> Hello {
    let mut reports = Reports::EMPTY;
    for n in 0..report_count {
        let heard = 0xffff_ffff << n | 1;
        reports.push(Report { path: PathId(0xc0de_0000 + n), sequence: 1000 + n, heard, age_us: 12_345 + n });
    }
    Hello {
        source: PopId(0xaabb_ccdd),
        path: PathId(0x0102_0304),
        sequence: 77,
        sent_us: 1_234_567_890,
        reports,
    }
}

const REQUEST: ProbeRequest =
    ProbeRequest { link: LinkId(0xdead_beef), sequence: 42, sent_ns: 1_700_000_000_123_456_789 };

const REPLY: ProbeReply = ProbeReply {
    request: REQUEST,
    received_count: 41,
    received_ns: 1_700_000_000_133_456_789,
    residence_ns: 25_000,
};

fn link_down() -> LinkDown {
    let labels = Labels::new(&[Label(0x1111_1111), Label(0x2222_2222)]).expect("two labels");
    LinkDown { source: PopId(0xaabb_ccdd), number: 0x0001_0203_0405_0607, labels }
}

fn channel_header() -> ChannelHeader {
    ChannelHeader { worker: 3, channel: ChannelId(0x0a0b_0c0d), counter: 0x0102_0304_0506 }
}

fn control_hello() -> ControlHello {
    ControlHello {
        role: Role::Flows,
        channel: ChannelId(9),
        worker: 2,
        follows: Some(ChannelId(0x0a0b_0c0d)),
        policy: "game,5".to_owned(),
    }
}

fn frame_list() -> Vec<(&'static str, Frame<'static>)> {
    let (session, flow) = (SessionId(0x0000_0102), FlowId(0x0123_4567_89ab_cdef));
    let udp = Open { protocol: Protocol::Udp, ..open() };
    let datagram = Datagram::unmarked(DATAGRAM);
    let marked = Datagram { tos: 0xb9, ..datagram };
    vec![
        ("frame_data", Frame::Data { session, datagram }),
        ("frame_data_marked", Frame::Data { session, datagram: marked }),
        ("frame_open_data", Frame::OpenData { open: udp, datagram }),
        ("frame_open_data_marked", Frame::OpenData { open: udp, datagram: marked }),
        ("frame_bound", Frame::Bound { flow, session, datagram: None }),
        ("frame_bound_datagram", Frame::Bound { flow, session, datagram: Some(datagram) }),
        ("frame_bound_datagram_marked", Frame::Bound { flow, session, datagram: Some(marked) }),
        ("frame_session_unknown", Frame::SessionUnknown { session }),
        ("frame_close", Frame::Close { session, reason: Reason::Idle }),
        ("frame_refused", Frame::Refused { flow, reason: Reason::Denied }),
        ("frame_quic", Frame::Quic { ecn_bits: 2, packet: DATAGRAM }),
        ("frame_fragment", Frame::Fragment(Fragment { id: 6, index: 1, count: 3, bytes: DATAGRAM })),
        (
            "frame_repair",
            Frame::Repair(Repair { fingerprints: &[0x01, 0x02, 0xfe, 0xff], lengths: 5, bytes: DATAGRAM }),
        ),
    ]
}

/// `append` writes to an empty vector.
fn bytes_of(append: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    append(&mut out);
    out
}

/// Everything this crate can write, with fixed values.
fn made_here() -> Vectors {
    let mut vectors = Vectors::new();
    let mut add = |name: &str, bytes: Vec<u8>| {
        assert!(vectors.insert(name.to_owned(), bytes).is_none(), "{name} is made twice");
    };
    add("address_v4", bytes_of(|out| address::encode(client(), out)));
    add("address_v6", bytes_of(|out| address::encode(listener(), out)));

    let mut packet = [outer_at(0).encode(&hop_key(0)).as_slice(), DATAGRAM].concat();
    add("outer_hop_0", packet.clone());
    for hop in 1..=3 {
        let header = OuterHeader::parse(&packet).expect("our own header");
        outer::advance(&mut packet, &header, &hop_key(hop), Epoch::new(5 + hop));
        add(&format!("outer_hop_{hop}"), packet.clone());
    }

    add("channel_header", channel_header().encode().to_vec());
    for (name, frame) in frame_list() {
        add(name, bytes_of(|out| frame.encode(out).expect("short")));
    }

    add("hello_no_reports", hello(0).encode(&probe_key(), Epoch::new(5)).as_slice().to_vec());
    add("hello_four_reports", hello(4).encode(&probe_key(), Epoch::new(5)).as_slice().to_vec());
    // The shortest that real ones are padded to is 1,200 bytes.
    add("hello_padded_to_80", hello(1).encode_padded(&probe_key(), Epoch::new(5), 80));
    add("probe_request", Probe::Request(REQUEST).encode(&probe_key(), Epoch::new(5)).to_vec());
    add("probe_reply", Probe::Reply(REPLY).encode(&probe_key(), Epoch::new(5)).to_vec());

    add("link_down", link_down().encode(&probe_key(), Epoch::new(5)).as_slice().to_vec());

    add("stream_hello", bytes_of(|out| control_hello().encode(out).expect("short")));
    add("stream_bus", bytes_of(|out| encode_bus(b"record", out).expect("short")));
    add("stream_credit", bytes_of(|out| CREDIT.encode(out)));
    add("stream_open", bytes_of(|out| encode_open(&open(), out).expect("short")));
    add("stream_open_ok", bytes_of(|out| encode_answer(Answer::Ok, out)));
    add("stream_open_fail", bytes_of(|out| encode_answer(Answer::Fail(Reason::TimedOut), out)));
    add("stream_stripe", encode_stripe(0x0102).to_vec());
    add("stripe_chunk", chunk_header().encode().to_vec());
    vectors
}

const CREDIT: Credit = Credit { stream: 0x0102, read: 0x0002_625a_0000, window: 0x0100_0000 };

fn chunk_header() -> ChunkHeader {
    ChunkHeader { offset: 0x0002_625a_0000, length: 16_384 }
}

#[test]
fn this_crate_writes_the_bytes_on_the_page() {
    let (mut page, made) = (on_the_page(), made_here());
    // It takes a cipher: `l4proxy_tunnel` reads and writes this one.
    page.remove("sealed_packet");
    if page != made {
        let mut block = String::new();
        for (name, bytes) in &made {
            let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").unwrap();
                hex
            });
            writeln!(block, "{name}: {hex}").unwrap();
        }
        panic!("the vectors of docs/protocol.md differ from what this crate writes:\n{block}");
    }
}

#[test]
fn the_packets_on_the_page_decode_to_what_they_were_made_of() {
    let page = on_the_page();
    assert_eq!(address::decode(&page["address_v4"]), Ok((client(), &[][..])));
    assert_eq!(address::decode(&page["address_v6"]), Ok((listener(), &[][..])));
    for hop in 0..=3 {
        let packet = &page[&format!("outer_hop_{hop}")];
        let header = OuterHeader::parse(packet).unwrap();
        assert_eq!(header, OuterHeader { epoch: Epoch::new(5 + hop), ..outer_at(hop) });
        assert!(outer::verify_tag(packet, &header, &hop_key(hop)));
        assert!(!outer::verify_tag(packet, &header, &hop_key(hop + 1)));
        assert_eq!(&packet[header.length()..], DATAGRAM);
    }
    let sealed = [&page["channel_header"][..], &[0; 16]].concat();
    assert_eq!(ChannelHeader::decode(&sealed), Ok(channel_header()));
    for (name, frame) in frame_list() {
        assert_eq!(frames(&page[name]).collect::<Vec<_>>(), [Ok(frame)], "{name}");
    }
    for (name, count) in [("hello_no_reports", 0), ("hello_four_reports", 4), ("hello_padded_to_80", 1)] {
        let decoded = Hello::decode(&page[name]).unwrap();
        assert!(decoded.verify(&probe_key()));
        assert_eq!((decoded.hello, decoded.epoch), (hello(count), Epoch::new(5)));
    }
    for (name, probe) in [("probe_request", Probe::Request(REQUEST)), ("probe_reply", Probe::Reply(REPLY))] {
        let decoded = Probe::decode(&page[name]).unwrap();
        assert!(decoded.verify(&probe_key()));
        assert_eq!((decoded.probe, decoded.epoch), (probe, Epoch::new(5)));
    }
    let decoded = LinkDown::decode(&page["link_down"]).unwrap();
    assert!(decoded.verify(&probe_key()));
    assert_eq!((decoded.link_down, decoded.epoch), (link_down(), Epoch::new(5)));
}

/// Of a connection for flows.
fn decoder_after_hello() -> ControlDecoder {
    let mut decoder = ControlDecoder::new();
    let hello = bytes_of(|out| control_hello().encode(out).expect("short"));
    decoder.decode(&mut &hello[..]).expect("our own HELLO");
    decoder
}

#[test]
fn the_stream_messages_on_the_page_decode_to_what_they_were_made_of() {
    let page = on_the_page();
    let mut decoder = ControlDecoder::new();
    let hello = decoder.decode(&mut &page["stream_hello"][..]);
    assert_eq!(hello, Ok(Some(ControlMessage::Hello(control_hello()))));

    let pair = ControlHello { role: Role::Pair, ..control_hello() };
    let both = bytes_of(|out| pair.encode(out).unwrap());
    let both = [&both[..], &page["stream_bus"]].concat();
    let (mut decoder, mut input) = (ControlDecoder::new(), &both[..]);
    assert_eq!(decoder.decode(&mut input), Ok(Some(ControlMessage::Hello(pair))));
    assert_eq!(decoder.decode(&mut input), Ok(Some(ControlMessage::Bus(b"record".to_vec()))));

    let credit = decoder_after_hello().decode(&mut &page["stream_credit"][..]);
    assert_eq!(credit, Ok(Some(ControlMessage::Credit(CREDIT))));

    let decoded = OpenDecoder::new().decode(&mut &page["stream_open"][..]).unwrap();
    assert_eq!(decoded, Some(open().to_owned()));
    for (name, answer) in
        [("stream_open_ok", Answer::Ok), ("stream_open_fail", Answer::Fail(Reason::TimedOut))]
    {
        assert_eq!(AnswerDecoder::new().decode(&mut &page[name][..]), Ok(Some(answer)), "{name}");
    }
    assert_eq!(decode_stripe(page["stream_stripe"].first_chunk().unwrap()), Some(0x0102));
    assert_eq!(ChunkHeader::decode(page["stripe_chunk"].first_chunk().unwrap()), chunk_header());
}
