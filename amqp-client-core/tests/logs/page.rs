//! The page about the log has all lines, and no others.

use std::path::Path;

use crate::scene::all_lines;
use crate::{channels, connections, consumers, messages, recovery, sinks};

/// A row of the page: the level, and the parts of the line between what varies.
struct Row<'a> {
    level: &'a str,
    line: &'a str,
}

impl Row<'_> {
    /// Returns whether that is such a line.
    fn matches(&self, level: &str, text: &str) -> bool {
        let mut parts = self.line.split(['{', '}']).step_by(2).peekable();
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first).filter(|_| self.level == level) else {
            return false;
        };
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part) && (!part.is_empty() || !rest.is_empty());
            }
            // A varying part may be empty, as the ending of a plural.
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.is_empty()
    }
}

fn rows(page: &str) -> Vec<Row<'_>> {
    let levels = ["ERROR", "WARN", "INFO", "DEBUG"];
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let (level, line, meaning) = (cells.next()?, cells.next()?, cells.next()?);
        assert!(!meaning.trim_end_matches(" |").is_empty(), "{line}");
        levels.contains(&level).then_some(Row { level, line: line.trim_matches('`') })
    });
    rows.collect()
}

/// Returns the line without the names of connection and channel, and without how many were left out.
fn text(line: &str) -> (&str, &str) {
    let (head, text) = line.split_once(": ").expect("the connection is named");
    let (level, _) = head.split_once(' ').expect("the level comes first");
    let end = text.rfind(" (").filter(|at| text[*at..].ends_with("left out before this one)"));
    (level, end.map_or(text, |at| &text[..at]))
}

#[test]
fn it_has_each_line_and_each_of_its_lines_is_written() {
    for scene in [
        channels::a_channel_closed_by_the_broker_has_the_method_and_a_hint,
        channels::a_channel_that_is_opened_again_says_so,
        channels::a_channel_closed_by_the_application_is_no_warning,
        channels::a_pause_of_one_channel_is_reported,
        channels::requests_without_reply_are_counted_when_the_application_ends,
        connections::an_open_connection_has_its_parameters,
        connections::a_connection_that_cannot_be_opened_has_the_step,
        connections::a_silent_broker_is_reported_before_it_is_given_up,
        connections::an_alarm_of_the_broker_has_its_time,
        connections::a_close_by_the_application_is_no_warning,
        connections::a_close_by_the_application_has_what_is_pending,
        connections::a_close_by_the_broker_without_recovery_has_what_it_interrupts,
        connections::a_connection_whose_driver_is_gone_says_so,
        consumers::a_consumer_that_the_broker_cancels_has_its_queue,
        consumers::the_application_cancels_and_drops_consumers,
        consumers::who_holds_reading_back_is_named,
        consumers::a_consumer_that_is_paused_is_named,
        consumers::a_handler_that_hangs_is_reported,
        consumers::messages_that_are_requeued_again_and_again_are_reported,
        messages::a_returned_message_is_reported,
        messages::a_refused_message_is_reported,
        messages::a_message_that_is_too_large_is_reported,
        messages::a_handler_that_panics_is_an_error,
        messages::a_late_acknowledgement_is_reported,
        messages::kept_messages_at_their_limit_are_reported,
        messages::a_kept_message_that_the_broker_refuses_is_reported,
        recovery::a_loss_says_why_and_what_it_interrupts_and_a_recovery_what_it_restores,
        recovery::a_failed_attempt_has_its_step_and_the_end_its_reason,
        recovery::what_is_missing_after_a_recovery_is_listed,
        recovery::long_lists_are_cut,
        recovery::a_queue_with_another_name_is_reported,
        recovery::a_token_that_is_not_renewed_is_reported,
        recovery::a_renewed_token_is_reported,
        sinks::it_may_cause_a_line_for_each_line,
    ] {
        scene();
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/logs.md");
    let page = std::fs::read_to_string(page).expect("the page exists");
    let (rows, lines) = (rows(&page), all_lines());
    assert!(rows.len() > 40, "{}", rows.len());
    let lines: Vec<_> = lines.iter().map(|line| text(line)).collect();
    for (level, text) in &lines {
        let found = rows.iter().any(|row| row.matches(level, text));
        assert!(found, "the page lacks: {level} {text}");
    }
    for row in &rows {
        let found = lines.iter().any(|(level, text)| row.matches(level, text));
        assert!(found, "no test has seen: {} {}", row.level, row.line);
    }
}
