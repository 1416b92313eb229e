//! Finding the peer, whatever is in the carrier.

use super::*;

#[test]
fn each_side_answers_a_sync_once() {
    let mut host = Mux::new(Role::Host, OURS, hello());
    let sync = |epoch, answers| Frame::Sync(Sync { epoch, answers });
    let greeting = Frame::Hello(hello().encode_to_vec().into());
    let newer = Hello {
        generation: GENERATION + 9,
        ..hello()
    };
    assert_eq!(batch(&mut host), [sync(OURS, 0)]);
    host.receive(sync(THEIRS, 0)).unwrap();
    host.receive(sync(THEIRS, 0)).unwrap();
    assert_eq!(batch(&mut host), [sync(OURS, THEIRS), greeting.clone()]);
    host.receive(sync(THEIRS, OURS)).unwrap();
    let received = host.receive(Frame::Hello(newer.encode_to_vec().into()));
    assert_eq!(received.unwrap(), Some(newer));
    assert!(matches!(host.phase, Phase::Established(GENERATION)));
    assert_eq!(batch(&mut host), []);
}

#[test]
fn a_sync_with_a_new_epoch_means_that_the_peer_restarted() {
    let mut host = established(Role::Host);
    let restarted = host.receive(Frame::Sync(Sync { epoch: 3, answers: 0 }));
    assert!(matches!(restarted, Err(LinkError::PeerRestarted)));
}

/// One end of a carrier whose other end may be replaced.
struct End {
    mux: Mux,
    decoder: Decoder,
    buffer: BytesMut,
}

impl End {
    fn new(role: Role, epoch: u64, remains: &[u8]) -> End {
        let decoder = Decoder::new(role.peer(), epoch);
        End {
            mux: Mux::new(role, epoch, hello()),
            decoder,
            buffer: remains.into(),
        }
    }

    /// What it sends next.
    fn output(&mut self) -> BytesMut {
        let mut out = BytesMut::new();
        let _: Poll<_> = self.mux.poll_output(&mut cx(), &mut out);
        out
    }

    fn input(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        self.buffer.extend_from_slice(bytes);
        while let Some(frame) = self.decoder.decode(&mut self.buffer).map_err(Violation::from)? {
            self.mux.receive(frame)?;
        }
        Ok(())
    }
}

fn shake_hands(host: &mut End, guest: &mut End) {
    for _ in 0..3 {
        guest.input(&host.output()).unwrap();
        host.input(&guest.output()).unwrap();
    }
    for end in [host, guest] {
        assert!(matches!(end.mux.phase, Phase::Established(_)));
    }
}

#[test]
fn a_new_host_finds_the_guest_of_an_old_one() {
    let (mut old, mut guest) = (End::new(Role::Host, 1, b""), End::new(Role::Guest, 2, b""));
    shake_hands(&mut old, &mut guest);
    old.mux.open_reader(1).unwrap();
    guest.mux.open_writer(1).unwrap();
    guest.input(&old.output()).unwrap();
    write(&mut guest.mux, 1, 1000);
    // The old host is gone in the middle of a frame; the new one finds the rest of it in the carrier.
    let mut new = End::new(Role::Host, 3, &guest.output()[500..]);
    assert!(matches!(
        guest.input(&new.output()),
        Err(LinkError::PeerRestarted)
    ));
    let mut guest = End::new(Role::Guest, 4, b"");
    shake_hands(&mut new, &mut guest);
}

#[test]
fn a_new_guest_finds_the_host_that_waits_for_an_old_one() {
    let (mut host, mut old) = (End::new(Role::Host, 1, b""), End::new(Role::Guest, 2, b""));
    // The host has heard of the old guest, and answers it; nobody hears that but the new one.
    host.output();
    host.input(&old.output()).unwrap();
    let mut new = End::new(Role::Guest, 4, &host.output());
    shake_hands(&mut host, &mut new);
}
