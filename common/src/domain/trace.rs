//! Where a job stands in a trace: the context of W3C Trace Context, which says what caused what across processes.

use std::sync::Arc;

use super::JobId;

/// Longest `tracestate` that is kept, in bytes; entries beyond it are dropped, the last first.
const STATE_BYTES: usize = 512;
/// Most entries of a `tracestate`.
const STATE_ENTRIES: usize = 32;

/// A span as others see it: which trace, which span, and whether somebody records it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
    state: Option<Arc<str>>,
}

impl TraceContext {
    /// Ids must not be zero, which means "none"; 1 stands in for it.
    #[must_use]
    pub fn new(trace_id: u128, span_id: u64, sampled: bool) -> Self {
        Self { trace_id: trace_id.max(1), span_id: span_id.max(1), sampled, state: None }
    }

    /// Reads the headers of this name, or columns of a job. `None`: it is not what the specification says, and then counts as
    /// absent. A `tracestate` that can't be read is left out.
    #[must_use]
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let text = traceparent.trim();
        let mut parts = text.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = hex(parts.next()?, 2)?;
        // Later versions may say more; of this one that is a fault.
        let says_more = parts.next().is_some();
        let fits = version != 0xff && !(version == 0 && says_more) && trace_id != 0 && span_id != 0;
        fits.then(|| Self { trace_id, span_id, sampled: flags & 1 == 1, state: tracestate.and_then(state) })
    }

    /// The context of a job that was made without one: the same wherever it is asked for, so that nothing need be kept. Its
    /// trace has the job's id.
    #[must_use]
    pub fn of_job(job: JobId) -> Self {
        let (_, low) = job.uuid().as_u64_pair();
        Self::new(job.uuid().as_u128(), low, true)
    }

    /// The context of one run of a job in this trace. The span's id follows from the job and the number of the claim, so that
    /// a later run knows the span of one whose worker died.
    #[must_use]
    pub fn run(&self, job: JobId, claim: i64) -> Self {
        let (high, low) = job.uuid().as_u64_pair();
        self.child(mix(high ^ mix(low ^ mix(claim.cast_unsigned()))))
    }

    /// The context of a span below this one.
    #[must_use]
    pub fn child(&self, span_id: u64) -> Self {
        Self { span_id: span_id.max(1), ..self.clone() }
    }

    /// The same, recorded by somebody or not.
    #[must_use]
    pub fn with_sampled(self, sampled: bool) -> Self {
        Self { sampled, ..self }
    }

    /// The trace.
    #[must_use]
    pub const fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The span.
    #[must_use]
    pub const fn span_id(&self) -> u64 {
        self.span_id
    }

    /// Whether somebody records it.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// The value of `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }

    /// The value of `tracestate`: what other tracers carry along.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// A number that is even over all traces, whoever made their ids: what sampling goes by.
    #[must_use]
    pub fn lot(&self) -> u64 {
        let bytes = self.trace_id.to_be_bytes();
        let half = |part: &[u8]| part.iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
        mix(half(&bytes[..8]) ^ mix(half(&bytes[8..])))
    }
}

/// So many hex digits, in lower case as the specification has them.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let fits = text.len() == digits && text.bytes().all(is_digit);
    fits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// What is kept of a `tracestate`.
fn state(text: &str) -> Option<Arc<str>> {
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return None;
    }
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let mut kept = String::new();
    for entry in entries.take(STATE_ENTRIES) {
        if !entry.contains('=') {
            return None;
        }
        let comma = usize::from(!kept.is_empty());
        if kept.len() + comma + entry.len() > STATE_BYTES {
            break;
        }
        kept.push_str(&","[..comma]);
        kept.push_str(entry);
    }
    (!kept.is_empty()).then(|| kept.into())
}

/// Spreads a number over all numbers, one to one (splitmix64).
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_goes_through_as_it_came() {
        let context = TraceContext::parse(PARENT, Some("vendor=a:1, other=b")).expect("valid");
        assert_eq!(context.traceparent(), PARENT);
        assert_eq!(context.tracestate(), Some("vendor=a:1,other=b"));
        assert_eq!((context.is_sampled(), context.span_id()), (true, 0x00f0_67aa_0ba9_02b7));
        assert!(!TraceContext::parse(&PARENT.replace("-01", "-02"), None).expect("valid").is_sampled());
        assert!(
            TraceContext::parse(&format!("{}-more", PARENT.replacen("00", "01", 1)), None).is_some(),
            "a later one"
        );
    }

    #[test]
    fn what_the_specification_does_not_allow_counts_as_absent() {
        for wrong in [
            String::new(),
            "hello".to_owned(),
            PARENT.replacen("00", "ff", 1),
            PARENT.to_uppercase(),
            format!("{PARENT}-more"),
            PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            PARENT.replace("4bf92f", "+bf92f"),
            PARENT[..54].to_owned(),
        ] {
            assert_eq!(TraceContext::parse(&wrong, None), None, "{wrong}");
        }
    }

    #[test]
    fn a_state_is_bounded_and_one_that_is_none_is_left_out() {
        let state_of = |text: &str| TraceContext::parse(PARENT, Some(text)).expect("valid").state;
        let long = (0..40).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        assert_eq!(state_of(&long).expect("kept").split(',').count(), STATE_ENTRIES);
        let large = format!("a=1,b={},c=1", "x".repeat(STATE_BYTES));
        assert_eq!(state_of(&large).as_deref(), Some("a=1"), "in order, as far as there is room");
        for none in ["", " , ", "novalue", "a=1,b", "a=é", "a=\n"] {
            assert_eq!(state_of(none), None, "{none:?}");
        }
    }

    #[test]
    fn runs_have_spans_of_their_own_that_anybody_can_name() {
        let (job, other) = (JobId::new(), JobId::new());
        let context = TraceContext::of_job(job);
        assert_eq!(context.trace_id(), job.uuid().as_u128());
        assert_eq!(context.run(job, 3), TraceContext::of_job(job).run(job, 3));
        let spans = (0..100).flat_map(|claim| [job, other].map(|job| context.run(job, claim).span_id()));
        assert_eq!(spans.collect::<BTreeSet<_>>().len(), 200);
    }

    #[test]
    fn lots_are_even_for_traces_that_have_the_ids_of_jobs() {
        let lots = (0..4_000).map(|_| TraceContext::of_job(JobId::new()).lot());
        let below = lots.filter(|lot| *lot < u64::MAX / 4).count();
        assert!((800..1_200).contains(&below), "{below}");
    }
}
