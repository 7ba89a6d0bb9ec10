//! The chaos program: a fleet of real processes under load, faults from a seed, and a checker over what is left behind.
//!
//! | file | does |
//! |---|---|
//! | `options` | what a run is asked to do |
//! | `run` | boots everything, runs it, waits until all is quiet |
//! | `schedule`, `inject` | which faults when, from a seed; doing them |
//! | `load`, `stamp`, `watch` | who submits, what command tasks run, who watches streams |
//! | `gateway` | a gateway that misbehaves, whom messages go to there, and what they were told |
//! | `truth`, `history` | what the database says; all that the checker looks at |
//! | `check` | the laws, and what broke them |
//! | `measure`, `report` | refusals and recovery; the table |

pub mod check;
pub mod gateway;
pub mod history;
pub mod inject;
pub mod load;
pub mod measure;
pub mod options;
pub mod report;
pub mod run;
pub mod schedule;
pub mod stamp;
pub mod truth;
pub mod watch;
