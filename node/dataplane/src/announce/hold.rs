//! Whether this node has one address: by its place among the candidates, and by who answers on the segment. Pure; the
//! time is given.

use std::time::{Duration, Instant};

use super::PROBE;

/// Candidates behind the first that watch over an address; more would only ask more.
const WATCHERS: usize = 2;

/// How long nobody answers before the first behind takes the address; the next waits one probe longer.
const SILENCE: Duration = Duration::from_millis(1000);

/// Answers of others within this time make two of them a holder, not a stray one.
const RECENT: Duration = Duration::from_millis(900);

/// Announcements after the first, in case that one is lost.
const REPEATS: [Duration; 3] = [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(3)];

/// What is to be done about the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// Ask the segment for it.
    Ask,
    /// Answer for it from now on, and say so.
    Take,
    /// Answer for it no more.
    Leave,
}

/// The state of one address.
#[derive(Clone, Debug)]
pub struct Hold {
    held: bool,
    /// When somebody else last answered, or when the watch began.
    answered: Instant,
    /// The time before that.
    before: Option<Instant>,
    asked: Option<Instant>,
    /// When it was taken, and how often that was said again.
    taken: Option<(Instant, usize)>,
}

impl Hold {
    /// An address that this node has or has not.
    #[must_use]
    pub fn new(held: bool, now: Instant) -> Self {
        Hold { held, answered: now, before: None, asked: None, taken: None }
    }

    /// Whether this node has it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Somebody else has answered.
    pub fn heard(&mut self, now: Instant) {
        self.before = Some(self.answered);
        self.answered = now;
    }

    /// What to do now, for a node of that place; None is no candidate.
    pub fn step(&mut self, rank: Option<usize>, now: Instant) -> Step {
        match rank {
            Some(0) if !self.held => self.take(now),
            Some(0) => Step::Keep,
            Some(place) if place <= WATCHERS => self.watch(place as u32, now),
            _ if self.held => self.leave(now),
            _ => Step::Keep,
        }
    }

    fn watch(&mut self, place: u32, now: Instant) -> Step {
        let silent = now.duration_since(self.answered);
        if self.held {
            // The first is back, or was never away: its answers and ours must not go on side by side.
            let again = self.before.is_some_and(|before| now.duration_since(before) < RECENT);
            if again && silent < RECENT {
                return self.leave(now);
            }
        } else if self.asked.is_some() && silent >= SILENCE + PROBE * (place - 1) {
            return self.take(now);
        }
        if self.asked.is_none_or(|asked| now.duration_since(asked) >= PROBE * 9 / 10) {
            self.asked = Some(now);
            return Step::Ask;
        }
        Step::Keep
    }

    fn take(&mut self, now: Instant) -> Step {
        self.held = true;
        self.taken = Some((now, 0));
        Step::Take
    }

    fn leave(&mut self, now: Instant) -> Step {
        (self.held, self.taken) = (false, None);
        self.answered = now;
        Step::Leave
    }

    /// Whether it is time to say again that this node has the address.
    pub fn announces_again(&mut self, now: Instant) -> bool {
        let Some((taken, said)) = &mut self.taken else { return false };
        let due = REPEATS.get(*said).is_some_and(|after| now.duration_since(*taken) >= *after);
        *said += usize::from(due);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps every 100 ms for `millis`; `answers` says whether somebody else answers then. Gives what was done when.
    fn play(
        hold: &mut Hold,
        rank: Option<usize>,
        from: Instant,
        millis: u64,
        answers: impl Fn(u64) -> bool,
    ) -> Vec<(u64, Step)> {
        let mut done = Vec::new();
        for at in (0..=millis).step_by(100) {
            let now = from + Duration::from_millis(at);
            let step = hold.step(rank, now);
            if step == Step::Ask && answers(at) {
                hold.heard(now);
            }
            if matches!(step, Step::Take | Step::Leave) {
                done.push((at, step));
            }
        }
        done
    }

    #[test]
    fn the_first_takes_at_once_and_says_so_more_than_once() {
        let now = Instant::now();
        let mut hold = Hold::new(false, now);
        assert_eq!(play(&mut hold, Some(0), now, 1000, |_| false), [(0, Step::Take)]);
        let said =
            (0..60).filter(|tenth| hold.announces_again(now + Duration::from_millis(tenth * 100))).count();
        assert_eq!(said, REPEATS.len());
    }

    #[test]
    fn the_next_takes_within_two_seconds_of_silence_and_the_one_behind_it_later() {
        let now = Instant::now();
        for (rank, by) in [(1, 1300), (2, 1600)] {
            let mut hold = Hold::new(false, now);
            let done = play(&mut hold, Some(rank), now, 8000, |at| at < 5000);
            let [(at, Step::Take)] = done.as_slice() else { panic!("{done:?}") };
            assert!((5000..=5000 + by).contains(at), "rank {rank} takes at {at}");
        }
        let mut third = Hold::new(false, now);
        assert_eq!(play(&mut third, Some(3), now, 8000, |_| false), []);
    }

    #[test]
    fn who_stood_in_leaves_when_the_first_answers_again() {
        let now = Instant::now();
        let mut hold = Hold::new(false, now);
        let done = play(&mut hold, Some(1), now, 8000, |at| at >= 5000);
        assert!(matches!(done.as_slice(), [(..2000, Step::Take), (5000..6200, Step::Leave)]), "{done:?}");
    }

    #[test]
    fn an_adopted_address_is_kept_or_left_by_its_place() {
        let now = Instant::now();
        assert_eq!(play(&mut Hold::new(true, now), Some(0), now, 3000, |_| false), []);
        assert_eq!(play(&mut Hold::new(true, now), None, now, 3000, |_| false), [(0, Step::Leave)]);
        assert_eq!(play(&mut Hold::new(true, now), Some(1), now, 3000, |_| false), []);
    }
}
