//! Brokers that close the whole connection over a message, and do not say which: the channels take turns to find it.

use std::collections::BTreeMap;

use amqp_client_core::proto::method::{BasicAck, ConfirmSelect, ConfirmSelectOk, Method};
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, Connection, Event, Gate, PublishError, PublishSeq, RawProperties,
    ReplyCode, Route, ServerConfig,
};

use crate::rig::{Script, SessionRig, accept};

const PUBLISH: (u16, u16) = (60, 40);

/// A session with that many channels, at a server that closes the connection over bodies that begin with "bad".
fn strict(channels: usize) -> (SessionRig<Script>, Vec<ChannelId>) {
    let recovery = Recovery::default().seed(Some(7));
    let mut rig = SessionRig::scripted(recovery);
    rig.run();
    let ids: Vec<_> = (0..channels).map(|_| rig.open()).collect();
    for id in &ids {
        rig.channel(*id).request(ConfirmSelect { no_wait: false }).expect("it is sent");
    }
    rig.run();
    rig.peer.strict = true;
    rig.peer.judge = Some(Box::new(|published| {
        let bad = published.body.starts_with(b"bad");
        bad.then(|| (ReplyCode::INTERNAL_ERROR, "no such message".into(), PUBLISH))
    }));
    (rig, ids)
}

fn keep(rig: &mut SessionRig<Script>, id: ChannelId, body: &str) -> PublishSeq {
    let kept =
        rig.channel(id).publish_kept(&Route::queue("q"), &RawProperties::EMPTY, body.to_owned());
    kept.expect("it is kept")
}

/// Reconnects until the server has nothing to say against it any more. Returns how often that took.
fn reconnect(rig: &mut SessionRig<Script>) -> usize {
    for connections in 0..200 {
        rig.run();
        if rig.session.is_open() && !rig.session.is_disconnected() {
            return connections;
        }
        // The server disconnects.
        rig.session.handle_eof(rig.now);
        rig.run();
        rig.reconnect_to(ServerConfig::default());
    }
    panic!("it reconnects again and again");
}

/// The publishes with that outcome, by channel.
fn outcomes(
    rig: &SessionRig<Script>,
    outcome: impl Fn(&ChannelEvent) -> Option<(u64, u64)>,
) -> BTreeMap<ChannelId, Vec<u64>> {
    let mut all = BTreeMap::<_, Vec<u64>>::new();
    for event in &rig.events {
        if let Event::Channel(id, event) = event {
            if let Some((first, last)) = outcome(event) {
                all.entry(*id).or_default().extend(first..=last);
            }
        }
    }
    all
}

fn confirmed(rig: &SessionRig<Script>) -> BTreeMap<ChannelId, Vec<u64>> {
    outcomes(rig, |event| match event {
        ChannelEvent::Confirmed { publishes, ack: true } => {
            Some((publishes.start().get(), publishes.end().get()))
        }
        _ => None,
    })
}

fn refused(rig: &SessionRig<Script>) -> BTreeMap<ChannelId, Vec<u64>> {
    outcomes(rig, |event| match event {
        ChannelEvent::PublishFailed { publish, error } => {
            let PublishError::Ended(error) = error else { panic!("{error}") };
            assert!(format!("{error:?}").contains("no such message"), "{error}");
            Some((publish.get(), publish.get()))
        }
        _ => None,
    })
}

#[test]
fn of_several_channels_those_to_blame_are_found_and_all_other_messages_arrive() {
    // Number of channels and messages, and the bad ones among them.
    for (channels, messages, bad) in [
        (1, 1, &[(0, 0)][..]),
        (2, 1, &[(1, 0)]),
        (5, 1, &[(0, 0)]),
        (5, 4, &[(3, 2)]),
        (5, 4, &[(0, 0), (4, 3)]),
        (3, 20, &[(0, 19), (1, 10), (1, 11), (2, 0)]),
        (4, 2, &[(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]),
        (20, 10, &[(7, 5)]),
    ] {
        let (mut rig, ids) = strict(channels);
        let (mut good, mut guilty) = (BTreeMap::new(), BTreeMap::new());
        for message in 0..messages {
            for (channel, id) in ids.iter().enumerate() {
                let is_bad = bad.contains(&(channel, message));
                let (name, of) = if is_bad { ("bad", &mut guilty) } else { ("good", &mut good) };
                let seq = keep(&mut rig, *id, &format!("{name} {channel} {message}")).get();
                of.entry(*id).or_insert_with(Vec::new).push(seq);
            }
        }
        let connections = reconnect(&mut rig);
        let mut blamed = refused(&rig);
        blamed.values_mut().for_each(|seqs| seqs.sort_unstable());
        assert_eq!(blamed, guilty, "{channels} {messages} {bad:?}");
        assert_eq!(confirmed(&rig), good, "each is confirmed once, in order");
        assert_eq!(rig.session.kept(), 0);
        // Each takes as many as are needed to distinguish it from the others of its channel, and two more to be certain.
        let each = u32::ilog2(messages) as usize + 4;
        assert!(connections <= 1 + each * bad.len(), "{connections} for {bad:?}");
        for id in ids {
            assert_eq!(rig.channel(id).check_gate(), Ok(()));
        }
    }
}

/// Two channels with a good message each, then a connection that was closed because of one of two bad ones. The next connection
/// has sent the first message of the first channel, and has no reply yet.
fn amid_the_first_turn() -> (SessionRig<Script>, Vec<ChannelId>, Vec<PublishSeq>) {
    let (mut rig, ids) = strict(2);
    let kept = [(0, "good"), (1, "good"), (0, "bad"), (1, "bad")];
    let kept = kept.map(|(channel, body)| keep(&mut rig, ids[channel], body)).to_vec();
    // Nothing is confirmed.
    let judge = rig.peer.judge.take();
    rig.run_with(mute);
    lose_over_publish(&mut rig);
    assert_eq!(rig.peer.published, ["good"], "one channel at a time");
    rig.peer.judge = judge;
    (rig, ids, kept)
}

/// The server closes the connection over a publish, and takes another.
fn lose_over_publish(rig: &mut SessionRig<Script>) {
    rig.peer.server.close_over(rig.now, ReplyCode::INTERNAL_ERROR, "no such message", PUBLISH);
    rig.run_with(mute);
    rig.session.handle_eof(rig.now);
    rig.run_with(mute);
    reconnect_once(rig);
    assert!(rig.session.is_open());
}

/// Reconnects to a server that replies to the first `confirm.select` of each channel only.
fn reconnect_once(rig: &mut SessionRig<Script>) {
    rig.reconnect_to(ServerConfig::default());
    let mut selected = Vec::new();
    rig.run_with(|server, id, method| match selected.contains(&id) {
        true => mute(server, id, method),
        false => {
            selected.push(id);
            accept(server, id, method);
        }
    });
}

/// A server that does not reply to `confirm.select`, so that a turn does not end.
fn mute(server: &mut Connection, id: ChannelId, method: &Method) {
    if !matches!(method, Method::ConfirmSelect(_)) {
        accept(server, id, method);
    }
}

#[test]
fn a_turn_ends_when_the_broker_has_looked_at_the_message_and_needs_no_confirm() {
    let (mut rig, ids, _) = amid_the_first_turn();
    rig.peer.judge = None;
    rig.say(ids[0], ConfirmSelectOk {});
    assert_eq!(rig.peer.published, ["good", "good"]);
    // The second channel goes on, though the first one has to wait for its queue.
    rig.say(ids[1], BasicAck { delivery_tag: 1, multiple: false });
    assert_eq!(rig.peer.published, ["good", "good", "bad"]);
    assert_eq!(rig.channel(ids[0]).check_gate(), Err(Gate::Recovering));
}

#[test]
fn a_message_of_an_earlier_turn_is_not_blamed() {
    let (mut rig, ids, kept) = amid_the_first_turn();
    for _ in 0..10 {
        rig.peer.judge = None;
        rig.say(ids[0], ConfirmSelectOk {});
        rig.run();
        // The turn of the second channel is over as well: nothing that was sent with care is to blame.
        lose_over_publish(&mut rig);
    }
    assert_eq!(rig.given_up(), []);
    assert!(!confirmed(&rig).contains_key(&ids[0]), "{kept:?}");
}

#[test]
fn a_channel_that_is_closed_in_its_turn_makes_way_for_the_next() {
    for closed_by_the_broker in [false, true] {
        let (mut rig, ids, kept) = amid_the_first_turn();
        match closed_by_the_broker {
            true => {
                let cause = (60, 80);
                rig.refuse(ids[0], ReplyCode::PRECONDITION_FAILED, "unknown delivery tag", cause);
            }
            false => rig.channel(ids[0]).close(ReplyCode::REPLY_SUCCESS, ""),
        }
        reconnect(&mut rig);
        assert_eq!(confirmed(&rig), [(ids[1], vec![kept[1].get()])].into());
        assert_eq!(refused(&rig), [(ids[1], vec![kept[3].get()])].into());
        assert!(rig.session.channel(ids[0]).is_err());
        assert_eq!(rig.session.kept(), 0);
    }
}

#[test]
fn a_message_that_is_withdrawn_in_its_turn_leaves_no_other_to_blame() {
    let (mut rig, ids, kept) = amid_the_first_turn();
    assert!(!rig.channel(ids[0]).withdraw(kept[0]));
    let judge = rig.peer.judge.take();
    lose_over_publish(&mut rig);
    assert_eq!((rig.given_up(), &rig.peer.published[..]), (vec![], &["bad".to_owned()][..]));
    rig.peer.judge = judge;
    rig.session.handle_eof(rig.now);
    reconnect(&mut rig);
    assert_eq!(confirmed(&rig), [(ids[1], vec![kept[1].get()])].into());
    assert_eq!(
        refused(&rig),
        [(ids[0], vec![kept[2].get()]), (ids[1], vec![kept[3].get()])].into()
    );
}

#[test]
fn a_loss_in_the_middle_of_a_turn_blames_no_message() {
    let (mut rig, ids, kept) = amid_the_first_turn();
    let judge = rig.peer.judge.take();
    for _ in 0..10 {
        rig.session.handle_eof(rig.now);
        rig.run_with(mute);
        reconnect_once(&mut rig);
        assert_eq!((rig.given_up(), rig.peer.published.len()), (vec![], 1));
    }
    rig.peer.judge = judge;
    rig.session.handle_eof(rig.now);
    reconnect(&mut rig);
    let both = |first, second| [(ids[0], vec![first]), (ids[1], vec![second])].into();
    assert_eq!(confirmed(&rig), both(kept[0].get(), kept[1].get()));
    assert_eq!(refused(&rig), both(kept[2].get(), kept[3].get()));
}

/// It has nothing to send, so no confirm lets others publish.
#[test]
fn a_channel_whose_messages_are_withdrawn_before_its_turn_lets_others_publish() {
    let (mut rig, ids, kept) = amid_the_first_turn();
    for seq in [kept[1], kept[3]] {
        let _never_sent = rig.channel(ids[1]).withdraw(seq);
    }
    rig.run_with(mute);
    rig.events.clear();
    rig.peer.judge = None;
    rig.say(ids[0], ConfirmSelectOk {});
    let opened = |event: &Event| matches!(event, Event::Channel(id, ChannelEvent::GateOpened) if *id == ids[1]);
    assert_eq!(rig.events.iter().filter(|event| opened(event)).count(), 1);
    assert_eq!(rig.channel(ids[1]).check_gate(), Ok(()));
}
