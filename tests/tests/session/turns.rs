//! Brokers that close the whole connection over a message, and do not say which: the channels take turns to find it.

use std::collections::BTreeMap;

use amqp_client_core::proto::method::{BasicAck, ConfirmSelect, ConfirmSelectOk, Method};
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, Connection, Event, Gate, PublishError, PublishSeq, RawProperties,
    ReplyCode, Route, ServerConfig,
};

use crate::pair::{Pair, accept};

const PUBLISH: (u16, u16) = (60, 40);

/// A session with that many channels, at a server that closes the connection over bodies that begin with "bad".
fn strict(channels: usize) -> (Pair, Vec<ChannelId>) {
    let mut recovery = Recovery::default();
    recovery.seed = Some(7);
    let mut pair = Pair::new(recovery);
    pair.run(accept);
    let ids: Vec<_> = (0..channels).map(|_| pair.open()).collect();
    for id in &ids {
        pair.channel(*id).request(ConfirmSelect { no_wait: false }).expect("it is sent");
    }
    pair.run(accept);
    pair.strict = true;
    pair.judge = Some(Box::new(|published| {
        let bad = published.body.starts_with(b"bad");
        bad.then(|| (ReplyCode::INTERNAL_ERROR, "no such message".into(), PUBLISH))
    }));
    (pair, ids)
}

fn keep(pair: &mut Pair, id: ChannelId, body: &str) -> PublishSeq {
    let kept =
        pair.channel(id).publish_kept(&Route::queue("q"), &RawProperties::EMPTY, body.to_owned());
    kept.expect("it is kept")
}

/// Reconnects until the server has nothing to say against it any more. Returns how often that took.
fn reconnect(pair: &mut Pair) -> usize {
    for connections in 0..200 {
        pair.run(accept);
        if pair.session.is_open() && !pair.session.is_disconnected() {
            return connections;
        }
        // The server disconnects.
        pair.session.handle_eof(pair.now);
        pair.run(accept);
        pair.reconnect(ServerConfig::default());
    }
    panic!("it reconnects again and again");
}

/// The publishes with that outcome, by channel.
fn outcomes(
    pair: &Pair,
    outcome: impl Fn(&ChannelEvent) -> Option<(u64, u64)>,
) -> BTreeMap<ChannelId, Vec<u64>> {
    let mut all = BTreeMap::<_, Vec<u64>>::new();
    for event in &pair.events {
        if let Event::Channel(id, event) = event {
            if let Some((first, last)) = outcome(event) {
                all.entry(*id).or_default().extend(first..=last);
            }
        }
    }
    all
}

fn confirmed(pair: &Pair) -> BTreeMap<ChannelId, Vec<u64>> {
    outcomes(pair, |event| match event {
        ChannelEvent::Confirmed { publishes, ack: true } => {
            Some((publishes.start().get(), publishes.end().get()))
        }
        _ => None,
    })
}

fn refused(pair: &Pair) -> BTreeMap<ChannelId, Vec<u64>> {
    outcomes(pair, |event| match event {
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
    // How many channels with how many messages, and which of them are bad.
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
        let (mut pair, ids) = strict(channels);
        let (mut good, mut guilty) = (BTreeMap::new(), BTreeMap::new());
        for message in 0..messages {
            for (channel, id) in ids.iter().enumerate() {
                let is_bad = bad.contains(&(channel, message));
                let (name, of) = if is_bad { ("bad", &mut guilty) } else { ("good", &mut good) };
                let seq = keep(&mut pair, *id, &format!("{name} {channel} {message}")).get();
                of.entry(*id).or_insert_with(Vec::new).push(seq);
            }
        }
        let connections = reconnect(&mut pair);
        let mut blamed = refused(&pair);
        blamed.values_mut().for_each(|seqs| seqs.sort_unstable());
        assert_eq!(blamed, guilty, "{channels} {messages} {bad:?}");
        assert_eq!(confirmed(&pair), good, "each is confirmed once, in order");
        assert_eq!(pair.session.kept(), 0);
        // Each takes as many as are needed to distinguish it from the others of its channel, and two more to be certain.
        let each = u32::ilog2(messages) as usize + 4;
        assert!(connections <= 1 + each * bad.len(), "{connections} for {bad:?}");
        for id in ids {
            assert_eq!(pair.channel(id).check_gate(), Ok(()));
        }
    }
}

/// Two channels with a good message each, then a connection that was closed because of one of two bad ones. The next connection
/// has sent the first message of the first channel, and has no reply yet.
fn amid_the_first_turn() -> (Pair, Vec<ChannelId>, Vec<PublishSeq>) {
    let (mut pair, ids) = strict(2);
    let kept = [(0, "good"), (1, "good"), (0, "bad"), (1, "bad")];
    let kept = kept.map(|(channel, body)| keep(&mut pair, ids[channel], body)).to_vec();
    // Nothing is confirmed.
    let judge = pair.judge.take();
    pair.run(mute);
    lose_over_publish(&mut pair);
    assert_eq!(pair.published, ["good"], "one channel at a time");
    pair.judge = judge;
    (pair, ids, kept)
}

/// The server closes the connection over a publish, and takes another.
fn lose_over_publish(pair: &mut Pair) {
    pair.server.close_over(pair.now, ReplyCode::INTERNAL_ERROR, "no such message", PUBLISH);
    pair.run(mute);
    pair.session.handle_eof(pair.now);
    pair.run(mute);
    reconnect_once(pair);
    assert!(pair.session.is_open());
}

/// Reconnects to a server that replies to the first `confirm.select` of each channel only.
fn reconnect_once(pair: &mut Pair) {
    pair.reconnect(ServerConfig::default());
    let mut selected = Vec::new();
    pair.run(|server, id, method| match selected.contains(&id) {
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
    let (mut pair, ids, _) = amid_the_first_turn();
    pair.judge = None;
    pair.say(ids[0], ConfirmSelectOk {});
    assert_eq!(pair.published, ["good", "good"]);
    // The second channel goes on, though the first one has to wait for its queue.
    pair.say(ids[1], BasicAck { delivery_tag: 1, multiple: false });
    assert_eq!(pair.published, ["good", "good", "bad"]);
    assert_eq!(pair.channel(ids[0]).check_gate(), Err(Gate::Recovering));
}

#[test]
fn a_message_of_an_earlier_turn_is_not_blamed() {
    let (mut pair, ids, kept) = amid_the_first_turn();
    for _ in 0..10 {
        pair.judge = None;
        pair.say(ids[0], ConfirmSelectOk {});
        pair.run(accept);
        // The turn of the second channel is over as well: nothing that was sent with care is to blame.
        lose_over_publish(&mut pair);
    }
    assert_eq!(pair.given_up(), []);
    assert!(!confirmed(&pair).contains_key(&ids[0]), "{kept:?}");
}

#[test]
fn a_channel_that_is_closed_in_its_turn_makes_way_for_the_next() {
    for closed_by_the_broker in [false, true] {
        let (mut pair, ids, kept) = amid_the_first_turn();
        match closed_by_the_broker {
            true => {
                let cause = (60, 80);
                pair.refuse(ids[0], ReplyCode::PRECONDITION_FAILED, "unknown delivery tag", cause);
            }
            false => pair.channel(ids[0]).close(ReplyCode::REPLY_SUCCESS, ""),
        }
        reconnect(&mut pair);
        assert_eq!(confirmed(&pair), [(ids[1], vec![kept[1].get()])].into());
        assert_eq!(refused(&pair), [(ids[1], vec![kept[3].get()])].into());
        assert!(pair.session.channel(ids[0]).is_err());
        assert_eq!(pair.session.kept(), 0);
    }
}

#[test]
fn a_message_that_is_withdrawn_in_its_turn_leaves_no_other_to_blame() {
    let (mut pair, ids, kept) = amid_the_first_turn();
    assert!(!pair.channel(ids[0]).withdraw(kept[0]));
    let judge = pair.judge.take();
    lose_over_publish(&mut pair);
    assert_eq!((pair.given_up(), &pair.published[..]), (vec![], &["bad".to_owned()][..]));
    pair.judge = judge;
    pair.session.handle_eof(pair.now);
    reconnect(&mut pair);
    assert_eq!(confirmed(&pair), [(ids[1], vec![kept[1].get()])].into());
    assert_eq!(
        refused(&pair),
        [(ids[0], vec![kept[2].get()]), (ids[1], vec![kept[3].get()])].into()
    );
}

#[test]
fn a_loss_in_the_middle_of_a_turn_blames_no_message() {
    let (mut pair, ids, kept) = amid_the_first_turn();
    let judge = pair.judge.take();
    for _ in 0..10 {
        pair.session.handle_eof(pair.now);
        pair.run(mute);
        reconnect_once(&mut pair);
        assert_eq!((pair.given_up(), pair.published.len()), (vec![], 1));
    }
    pair.judge = judge;
    pair.session.handle_eof(pair.now);
    reconnect(&mut pair);
    let both = |first, second| [(ids[0], vec![first]), (ids[1], vec![second])].into();
    assert_eq!(confirmed(&pair), both(kept[0].get(), kept[1].get()));
    assert_eq!(refused(&pair), both(kept[2].get(), kept[3].get()));
}

/// It has nothing to send, so no confirm lets others publish.
#[test]
fn a_channel_whose_messages_are_withdrawn_before_its_turn_lets_others_publish() {
    let (mut pair, ids, kept) = amid_the_first_turn();
    for seq in [kept[1], kept[3]] {
        let _never_sent = pair.channel(ids[1]).withdraw(seq);
    }
    pair.run(mute);
    pair.events.clear();
    pair.judge = None;
    pair.say(ids[0], ConfirmSelectOk {});
    let opened = |event: &Event| matches!(event, Event::Channel(id, ChannelEvent::GateOpened) if *id == ids[1]);
    assert_eq!(pair.events.iter().filter(|event| opened(event)).count(), 1);
    assert_eq!(pair.channel(ids[1]).check_gate(), Ok(()));
}
