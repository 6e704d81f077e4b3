// SPDX-License-Identifier: GPL-2.0

//! What is brought along when a device asks for a page.
//!
//! Asking costs a device nearly as much for one page as for hundreds, so neighbours that it will want
//! are brought along; those that it will not want cost memory, and time to bring them. Nobody knows
//! which, so a guess has to be earned: pages are only brought along where requests have shown a
//! direction, and no more of them than [`FaultAround::credit`] allows, which grows with pages that were
//! really used. For as long as a device lives
//!
//! > pages mapped ≤ 2 × pages used + [`INITIAL_CREDIT`]
//!
//! whatever it does; a page that is brought along counts as used when the requests go on behind it.

use super::page::{
    Page,
    PageRange, //
};

/// Most pages that are mapped for one request: what one large page maps on x86, and what a process
/// waits for at most.
pub const MAX_PAGES: u64 = 512;

/// Pages that may be brought along before any were used: enough for a stream to be taken for one
/// within its first mebibyte, by [`GROWTH`].
pub const INITIAL_CREDIT: u64 = 192;

/// Most credit that is kept: that of two windows of the largest size. What a stream has earned long
/// ago says nothing about what comes.
pub const MAX_CREDIT: u64 = 2 * MAX_PAGES;

/// How much larger each window of a stream is than that before: 1, 8, 64, 512 pages are more than a
/// mebibyte in four requests.
pub const GROWTH: u64 = 8;

/// Requests that are further apart than this, in pages, have nothing to do with each other.
pub const MAX_STRIDE: i64 = 64;

/// Most pages that are brought along for one request if they do not follow each other: each has to be
/// looked up and mapped by itself.
pub const MAX_STRIDED: u64 = 16;

/// Streams that are told apart: a copy has two, a gather list some more.
const STREAMS: usize = 4;

/// What a user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// What the requests suggest.
    Auto,
    /// The aligned block of so many pages, 1 to [`MAX_PAGES`], about each page.
    Fixed(u64),
}

impl Setting {
    /// The number of pages, or 0.
    pub const fn number(self) -> u64 {
        match self {
            Self::Auto => 0,
            Self::Fixed(pages) => pages,
        }
    }

    /// The setting of a number.
    pub const fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Auto,
            pages => Self::Fixed(pages),
        }
    }
}

/// A number of pages was 0, above [`MAX_PAGES`] or no number at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl TryFrom<&str> for Setting {
    type Error = Malformed;

    fn try_from(text: &str) -> Result<Self, Malformed> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Malformed);
        }
        match text.parse() {
            Ok(pages @ 1..=MAX_PAGES) => Ok(Self::Fixed(pages)),
            _ => Err(Malformed),
        }
    }
}

impl core::fmt::Display for Setting {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(pages) => write!(f, "{pages}"),
        }
    }
}

/// Where neighbours may be, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Pages that are mapped alike in the process. What is asked for is among them.
    pub area: PageRange,
    /// Most pages of a window that has not more in demand.
    pub max_pages: u64,
}

/// What to map for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The pages that were asked for and neighbours of theirs.
    pub window: PageRange,
    /// Pages apart from each other.
    pub strided: Option<Strided>,
}

/// Pages at equal distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strided {
    first: Page,
    stride: i64,
    count: u64,
}

impl Strided {
    /// All of them, in the order in which they are expected to be used.
    pub fn pages(self) -> impl Iterator<Item = Page> {
        (0..self.count as i64).filter_map(move |step| self.first.offset(step * self.stride))
    }
}

/// Which way requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// To the page behind the last one.
    Up,
    /// To the page before the first one.
    Down,
    /// So many pages on, each time.
    By(i64),
    /// Nobody knows: they once went so many pages on, if at all.
    Unknown(i64),
}

/// Requests that have something to do with each other.
#[derive(Clone, Copy)]
struct Stream {
    direction: Direction,
    /// The first page of the last request, or the last that was brought along by [`Direction::By`].
    last: Page,
    /// The page that will be asked for if this goes on.
    next: Page,
    /// Pages that were brought along with the last request.
    ahead: u64,
    /// Number of the last request.
    number: u64,
}

impl Stream {
    /// One request, which goes nowhere yet.
    const fn new(demand: PageRange) -> Self {
        Self {
            direction: Direction::Unknown(0),
            last: demand.first,
            next: demand.end(),
            ahead: 0,
            number: 0,
        }
    }

    /// Whether a request is where it was expected, or a little further, for what is there already is
    /// not asked for.
    fn expects(&self, demand: PageRange) -> bool {
        let slack = self.ahead.max(1) as i64;

        match self.direction {
            Direction::Up => (0..=slack).contains(&self.next.distance(demand.first)),
            Direction::Down => {
                let last = Page(demand.end().0.saturating_sub(1));

                (-slack..=0).contains(&self.next.distance(last))
            }
            Direction::By(_) => self.next == demand.first,
            Direction::Unknown(_) => false,
        }
    }

    /// How far a request is from the last one, if they can have to do with each other.
    fn near(&self, demand: PageRange) -> Option<i64> {
        let distance = self.last.distance(demand.first);

        (1..=MAX_STRIDE)
            .contains(&distance.abs())
            .then_some(distance)
    }

    /// Takes a request that was not expected for one that shows a direction: a neighbour does,
    /// anything else has to come twice.
    fn turn(&mut self, demand: PageRange, distance: i64) {
        let known = match self.direction {
            Direction::By(stride) | Direction::Unknown(stride) => stride,
            Direction::Up | Direction::Down => 0,
        };

        self.direction = if self.last.0 + self.requested() == demand.first.0 {
            Direction::Up
        } else if demand.end() == self.last {
            Direction::Down
        } else if distance == known {
            Direction::By(distance)
        } else {
            Direction::Unknown(distance)
        };
        self.ahead = 0;
    }

    /// Pages of the last request, if nothing was brought along.
    fn requested(&self) -> u64 {
        match self.direction {
            Direction::Unknown(_) => self.next.0 - self.last.0,
            _ => 1,
        }
    }
}

/// What is known of the requests of one binding.
pub struct FaultAround {
    streams: [Option<Stream>; STREAMS],
    credit: u64,
    requests: u64,
}

impl FaultAround {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self {
            streams: [None; STREAMS],
            credit: INITIAL_CREDIT,
            requests: 0,
        }
    }

    /// Pages that may be brought along now.
    pub const fn credit(&self) -> u64 {
        self.credit
    }

    /// What to map for a request for adjacent pages. All of it counts as mapped.
    pub fn plan(&mut self, demand: PageRange, bounds: Bounds, setting: Setting) -> Plan {
        match setting {
            Setting::Auto => self.follow(demand, bounds),
            Setting::Fixed(pages) => Plan {
                window: block(demand, pages.clamp(1, MAX_PAGES))
                    .intersection(bounds.area)
                    .shrink_about(demand, bounds.max_pages),
                strided: None,
            },
        }
    }

    /// Finds the stream that a request belongs to, or makes one, and looks ahead.
    fn follow(&mut self, demand: PageRange, bounds: Bounds) -> Plan {
        self.requests += 1;
        self.earn(demand.count);

        let (at, mut stream) = if let Some((at, stream)) = self.expecting(demand) {
            // What was brought along was used.
            self.earn(2 * stream.ahead);
            (at, stream)
        } else if let Some((at, mut stream, distance)) = self.nearest(demand) {
            stream.turn(demand, distance);
            (at, stream)
        } else {
            (self.oldest(), Stream::new(demand))
        };
        let plan = self.look_ahead(&mut stream, demand, bounds);

        stream.number = self.requests;
        if let Some(place) = self.streams.get_mut(at) {
            *place = Some(stream);
        }
        plan
    }

    /// Says what to bring along for a stream, and what it will ask for then.
    fn look_ahead(&mut self, stream: &mut Stream, demand: PageRange, bounds: Bounds) -> Plan {
        let room = MAX_PAGES.min(bounds.max_pages).saturating_sub(demand.count);
        let limit = match stream.direction {
            Direction::Up => room.min(bounds.area.end().0.saturating_sub(demand.end().0)),
            Direction::Down => room.min(demand.first.0.saturating_sub(bounds.area.first.0)),
            Direction::By(_) => room.min(MAX_STRIDED),
            Direction::Unknown(_) => 0,
        };
        let ahead = ((stream.ahead + 1) * GROWTH - 1)
            .min(limit)
            .min(self.credit);
        let mut window = demand;
        let mut strided = None;

        stream.last = demand.first;
        stream.next = demand.end();
        stream.ahead = 0;
        match stream.direction {
            Direction::Up => {
                let end = Page((demand.end().0 + ahead).min(Page::LAST.0 + 1));

                window = PageRange::between(demand.first, end);
                stream.ahead = window.count - demand.count;
                stream.next = end;
            }
            Direction::Down => {
                window =
                    PageRange::between(Page(demand.first.0.saturating_sub(ahead)), demand.end());
                stream.ahead = window.count - demand.count;
                stream.next = Page(window.first.0.saturating_sub(1));
            }
            Direction::By(stride) => {
                for _ in 0..ahead {
                    let Some(page) = stream
                        .last
                        .offset(stride)
                        .filter(|&page| bounds.area.contains(page))
                    else {
                        break;
                    };

                    stream.last = page;
                    stream.ahead += 1;
                }
                strided = demand.first.offset(stride).map(|first| Strided {
                    first,
                    stride,
                    count: stream.ahead,
                });
                stream.next = stream.last.offset(stride).unwrap_or(Page::LAST);
            }
            Direction::Unknown(_) => {}
        }
        self.credit -= stream.ahead;
        Plan { window, strided }
    }

    /// All streams, with their places.
    fn known(&self) -> impl Iterator<Item = (usize, Stream)> + '_ {
        (0..)
            .zip(&self.streams)
            .filter_map(|(at, stream)| stream.map(|stream| (at, stream)))
    }

    /// The stream that a request continues.
    fn expecting(&self, demand: PageRange) -> Option<(usize, Stream)> {
        self.known().find(|(_, stream)| stream.expects(demand))
    }

    /// The stream that a request may belong to, and how far it is from it.
    fn nearest(&self, demand: PageRange) -> Option<(usize, Stream, i64)> {
        self.known()
            .filter_map(|(at, stream)| Some((at, stream, stream.near(demand)?)))
            .min_by_key(|(_, _, distance)| distance.abs())
    }

    /// The place of the stream that has not gone on for the longest time, or of none.
    fn oldest(&self) -> usize {
        (0..)
            .zip(&self.streams)
            .min_by_key(|(_, stream)| stream.map_or(0, |stream| stream.number))
            .map_or(0, |(at, _)| at)
    }

    /// More pages may be brought along.
    fn earn(&mut self, pages: u64) {
        self.credit = (self.credit + pages).min(MAX_CREDIT);
    }
}

impl Default for FaultAround {
    fn default() -> Self {
        Self::new()
    }
}

/// The aligned block of `pages` that has the first page, and the rest of what was asked for.
fn block(demand: PageRange, pages: u64) -> PageRange {
    let first = demand.first.0 - demand.first.0 % pages;
    let end = demand.end().0.max(first + pages).min(Page::LAST.0 + 1);

    PageRange::between(Page(first), Page(end))
}
