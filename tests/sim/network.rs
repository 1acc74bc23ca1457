//! One broadcast domain with every fault that Ethernet knows.

use std::time::Duration;

use carp_common::units::Family;

use super::model::index;
use super::rng::Rng;

/// How the network treats frames until told otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Least time on the wire.
    pub delay_min: Duration,
    /// Most time on the wire; frames overtake each other when it differs from the least.
    pub delay_max: Duration,
    /// Frames lost, in 1/1000, until the quiet period.
    pub loss: u64,
    /// Frames delivered twice, in 1/1000.
    pub duplicates: u64,
    /// Frames that come back to their sender, in 1/1000 (hairpin port, bond, mirror).
    pub reflections: u64,
}

/// Who can reach whom, and how well.
#[derive(Debug)]
pub struct Network {
    weather: Weather,
    /// `cut[family][from][to]`: a frame on this path is dropped.
    cut: [Vec<Vec<bool>>; 2],
    rng: Rng,
}

/// What happened to one frame on the path to one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Arrives after this time.
    Arrives(Duration),
    /// Dropped by chance.
    Lost,
}

impl Network {
    /// A network of `hosts` hosts, everyone reaching everyone.
    #[must_use]
    pub fn new(hosts: usize, weather: Weather, rng: Rng) -> Self {
        let cut = vec![vec![false; hosts]; hosts];
        Self {
            weather,
            cut: [cut.clone(), cut],
            rng,
        }
    }

    /// Cuts or mends one direction of one path, in one family.
    pub fn set_cut(&mut self, family: Family, from: usize, to: usize, cut: bool) {
        self.cut[index(family)][from][to] = cut;
    }

    /// Mends every path.
    pub fn heal(&mut self) {
        for path in self.cut.iter_mut().flatten().flatten() {
            *path = false;
        }
    }

    /// Changes the rate of loss.
    pub const fn set_loss(&mut self, permille: u64) {
        self.weather.loss = permille;
    }

    /// The rate of loss.
    #[must_use]
    pub const fn loss(&self) -> u64 {
        self.weather.loss
    }

    /// Whether frames of the family get from one host to the other.
    #[must_use]
    pub fn reaches(&self, family: Family, from: usize, to: usize) -> bool {
        !self.cut[index(family)][from][to]
    }

    /// What becomes of one frame, once for each copy. Nothing when the path is cut, or leads back to a sender whom
    /// the network does not reflect this time.
    pub fn carry(&mut self, family: Family, from: usize, to: usize, fates: &mut Vec<Fate>) {
        fates.clear();
        if !self.reaches(family, from, to)
            || (from == to && !self.rng.chance(self.weather.reflections))
        {
            return;
        }
        let copies = if self.rng.chance(self.weather.duplicates) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let lost = self.rng.chance(self.weather.loss);
            fates.push(if lost {
                Fate::Lost
            } else {
                Fate::Arrives(self.delay())
            });
        }
    }

    fn delay(&mut self) -> Duration {
        let (least, most) = (
            self.weather.delay_min.as_nanos(),
            self.weather.delay_max.as_nanos(),
        );
        let bound = |nanos| u64::try_from(nanos).expect("delays are far below 584 years");
        Duration::from_nanos(self.rng.between(bound(least), bound(most)))
    }
}
