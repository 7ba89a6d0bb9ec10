//! One question to the model: asked again within the attempt where that may help soon, and put off where it takes longer.

use std::time::Duration;

use errand_common::{
    config::Secret,
    domain::{EventType, gate::Verdict},
};

use super::{
    Server, failure,
    pieces::{Next, Pieces},
    progress::Progress,
    protocol::{Answer, Listener, Protocol, Said, Spent},
};
use crate::{
    engine::{TurnContext, TurnFailure, ledger::Spending},
    traced,
};

/// The first pause before a request is sent again, and the longest; it doubles from one to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// After a pause that the server asked for, so that its gate is open again.
const AFTER_THE_GATE: Duration = Duration::from_millis(50);
/// Once an answer is complete, longest wait for the token counts that some servers send after it.
const EPILOGUE_TIMEOUT: Duration = Duration::from_secs(5);

/// A request that brought no answer.
struct Broken {
    failure: TurnFailure,
    /// The same request may do better soon.
    may_pass: bool,
    /// Viewers saw the beginning of an answer.
    shown: bool,
    verdict: Verdict,
    pause: Option<Duration>,
    /// The protocol has changed: asking again is a new question.
    adapted: bool,
}

/// Asks, and passes the answer on as it comes.
pub(super) async fn ask(
    server: &Server,
    protocol: &mut dyn Protocol,
    progress: &Progress,
    key: Option<&Secret>,
    context: &TurnContext,
) -> Result<Answer, TurnFailure> {
    let mut retries = 0;
    loop {
        let passage = context.link.enter(&server.client()?.destination()).await?;
        let (outcome, verdict, pause) = match once(server, protocol, progress, key, context).await {
            Ok(answer) => (Ok(answer), Verdict::Success, None),
            Err(broken) => {
                let (verdict, pause) = (broken.verdict, broken.pause);
                (Err(broken), verdict, pause)
            }
        };
        passage.leave(verdict, pause).await;
        let broken = match outcome {
            Ok(answer) => return Ok(answer),
            Err(broken) => broken,
        };
        if broken.adapted {
            continue;
        }
        let wait = match broken.failure.retry_after {
            Some(asked) => asked + AFTER_THE_GATE,
            None => backoff(retries),
        };
        if !broken.may_pass || retries >= server.limits.retries || wait > server.limits.retry_wait + AFTER_THE_GATE {
            return Err(broken.failure);
        }
        retries += 1;
        tracing::info!(retries, failure = broken.failure.message, "a request to a model is sent again");
        if broken.shown {
            context.retract(&progress.text()).await?;
        }
        tokio::time::sleep(wait).await;
    }
}

/// Doubles, minus up to a quarter by chance.
fn backoff(retries: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << retries.min(8)).min(LONGEST_PAUSE);
    pause.mul_f64(1.0 - 0.25 * rand::random::<f64>())
}

async fn once(
    server: &Server,
    protocol: &mut dyn Protocol,
    progress: &Progress,
    key: Option<&Secret>,
    context: &TurnContext,
) -> Result<Answer, Broken> {
    let client = server.client().map_err(Broken::final_)?;
    let body = protocol.request(&progress.rounds);
    let spending = context.ledger.begin();
    let mut span = client.span(&server.model);
    let response = match span.around(client.post(&body, key)).await {
        Ok(response) => {
            traced::answered(&mut span, response.status());
            response
        }
        Err(refusal) => {
            match &refusal.failure {
                Some(failure) => span.fail(failure.code),
                None => traced::answered(&mut span, refusal.status),
            }
            if !refusal.in_doubt {
                spending.nothing();
            }
            let (may_pass, adapted, (verdict, pause)) =
                (refusal.may_pass(), protocol.adapt(&refusal), refusal.verdict());
            return Err(Broken { failure: refusal.into_failure(), may_pass, shown: false, verdict, pause, adapted });
        }
    };
    let mut listener = protocol.listen();
    let pieces = Pieces::new(response, server.limits.answer, server.limits.idle);
    let mut voice = Voice { before: progress.separator(), shown: false, context };
    let heard = {
        let account = Account { server, spending: Some(spending), listener: listener.as_mut() };
        listen(server, pieces, account, key, &mut voice).await
    };
    let shown = voice.shown;
    if let Spent::Exactly(tokens) | Spent::AtLeast(tokens) = listener.spent() {
        span.set_with("gen_ai.usage.input_tokens", || i64::try_from(tokens.input).unwrap_or(i64::MAX));
        span.set_with("gen_ai.usage.output_tokens", || i64::try_from(tokens.output).unwrap_or(i64::MAX));
    }
    let whole = match heard {
        Ok(_) => listener.finish().map_err(|failure| Broken { shown, ..Broken::final_(failure) }),
        Err(failure) => Err(Broken::in_the_answer(failure, shown)),
    };
    whole.inspect_err(|broken| span.fail(broken.failure.code))
}

impl Broken {
    /// Not for the server's fault.
    fn final_(failure: TurnFailure) -> Self {
        let verdict = Verdict::Success;
        Self { failure, may_pass: false, shown: false, verdict, pause: None, adapted: false }
    }

    fn in_the_answer(failure: TurnFailure, shown: bool) -> Self {
        let may_pass = failure::may_pass(&failure);
        let verdict = if may_pass { Verdict::Failure } else { Verdict::Success };
        Self { failure, may_pass, shown, verdict, pause: None, adapted: false }
    }
}

/// Passes on what is said.
struct Voice<'a> {
    /// Said before the first text.
    before: &'static str,
    shown: bool,
    context: &'a TurnContext,
}

impl Voice<'_> {
    async fn say(&mut self, said: Said) -> Result<(), TurnFailure> {
        match said {
            Said::Thinking(text) => self.context.say(EventType::Thinking, &text).await,
            Said::Text(text) => {
                let before = std::mem::take(&mut self.before);
                self.shown = true;
                self.context.say(EventType::Text, &format!("{before}{text}")).await
            }
        }
    }
}

/// Takes an answer as it comes, to its end.
async fn listen(
    server: &Server,
    mut pieces: Pieces,
    account: Account<'_>,
    key: Option<&Secret>,
    voice: &mut Voice<'_>,
) -> Result<(), TurnFailure> {
    let listener = &mut *account.listener;
    while !listener.is_over() {
        let next = if listener.is_complete() {
            // Whatever goes wrong now, only the token counts are lost.
            match tokio::time::timeout(EPILOGUE_TIMEOUT, pieces.next()).await {
                Ok(next @ Next::Piece(_)) => next,
                _ => return Ok(()),
            }
        } else {
            pieces.next().await
        };
        let piece = match next {
            Next::Piece(piece) => piece,
            Next::End => break,
            Next::Failed(failure) => return Err(failure),
            Next::Done => {
                listener.done();
                break;
            }
        };
        for said in listener.take(&piece).map_err(|error| failure::in_stream(&error, key))? {
            voice.say(said).await?;
        }
        if listener.size() > server.limits.answer {
            return Err(failure::too_long(server.limits.answer));
        }
    }
    if listener.is_complete() { Ok(()) } else { Err(failure::cut_off()) }
}

/// Writes down what is known of what the request spent, however the listening ends: whoever stops a run drops it.
struct Account<'a> {
    server: &'a Server,
    spending: Option<Spending>,
    listener: &'a mut dyn Listener,
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        let Some(spending) = self.spending.take() else { return };
        let usage = |tokens| self.server.prices.usage(tokens, self.listener.model(), &self.server.model);
        match self.listener.spent() {
            Spent::Exactly(tokens) => spending.report(usage(tokens)),
            Spent::AtLeast(tokens) => spending.cut_off(usage(tokens)),
            Spent::Unknown => drop(spending),
        }
    }
}
