//! The agent's own log, and the span of a session in it.
//!
//! A session's task is polled several times a statement and says something a few times in its life. So its span is not
//! entered each time it runs; it is only noted, and entered when there is something to write.

use std::cell::Cell;
use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::task::{Context, Poll};

use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Span, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

thread_local! {
    /// The span of what runs on this thread.
    static CURRENT: Cell<Option<NonZeroU64>> = const { Cell::new(None) };
}

/// Writes to standard error from now on; `CHAPERONE_LOG` says what.
pub fn to_stderr() {
    let filter = EnvFilter::try_from_env("CHAPERONE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    Noted(lines.finish()).init();
}

/// A future whose log lines are of a span.
pub struct InSpan<F> {
    span: Span,
    inner: Pin<Box<F>>,
}

impl<F: Future> InSpan<F> {
    pub fn new(span: Span, inner: F) -> Self {
        Self { span, inner: Box::pin(inner) }
    }
}

impl<F: Future> Future for InSpan<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let _before = Before(CURRENT.replace(this.span.id().map(|id| id.into_non_zero_u64())));
        this.inner.as_mut().poll(cx)
    }
}

/// Puts the span back that was noted before.
struct Before(Option<NonZeroU64>);

impl Drop for Before {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Enters the span that is noted for as long as something is written.
struct Noted<S>(S);

impl<S: Subscriber> Noted<S> {
    fn inside<T>(&self, what: impl FnOnce(&S) -> T) -> T {
        // Not noted twice: whoever writes may write of that itself.
        let Some(id) = CURRENT.take().map(Id::from_non_zero_u64) else { return what(&self.0) };
        let _before = Before(Some(id.into_non_zero_u64()));
        self.0.enter(&id);
        let done = what(&self.0);
        self.0.exit(&id);
        done
    }
}

impl<S: Subscriber> Subscriber for Noted<S> {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        self.0.register_callsite(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.0.max_level_hint()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inside(|inner| inner.enabled(metadata))
    }

    fn event_enabled(&self, event: &Event<'_>) -> bool {
        self.inside(|inner| inner.event_enabled(event))
    }

    fn event(&self, event: &Event<'_>) {
        self.inside(|inner| inner.event(event));
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        self.inside(|inner| inner.new_span(attributes))
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.0.record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.0.record_follows_from(span, follows);
    }

    fn enter(&self, span: &Id) {
        self.0.enter(span);
    }

    fn exit(&self, span: &Id) {
        self.0.exit(span);
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.0.clone_span(id)
    }

    fn try_close(&self, id: Id) -> bool {
        self.0.try_close(id)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing::{info, info_span};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    type Saying = InSpan<Pin<Box<dyn Future<Output = ()>>>>;

    /// What is written when these are polled in turn, without the time.
    fn written(filter: &str, make: impl FnOnce() -> Vec<Saying>) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(Noted(subscriber.finish()), || {
            let mut futures = make();
            let cx = &mut Context::from_waker(std::task::Waker::noop());
            while !futures.is_empty() {
                futures.retain_mut(|future| Pin::new(future).poll(cx).is_pending());
                info!("between");
            }
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn saying(words: &'static [&'static str]) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            for word in words {
                info!("{word}");
                tokio::task::yield_now().await;
            }
        })
    }

    fn two() -> Vec<Saying> {
        let named = |id: &str| info_span!("session", id, target = tracing::field::Empty);
        let one = named("one");
        one.record("target", "shop");
        vec![InSpan::new(one, saying(&["a", "b"])), InSpan::new(named("two"), saying(&["c"]))]
    }

    #[test]
    fn a_line_bears_the_span_of_the_future_that_wrote_it_and_no_other_does() {
        let expected = [
            "INFO session{id=\"one\" target=\"shop\"}: a",
            "INFO session{id=\"two\"}: c",
            "INFO between",
            "INFO session{id=\"one\" target=\"shop\"}: b",
            "INFO between",
            "INFO between",
        ];
        assert_eq!(written("info", two), expected);
    }

    #[test]
    fn a_filter_may_ask_for_one_session() {
        let lines = written("off,[session{id=one}]=info", two);
        let expected =
            ["INFO session{id=\"one\" target=\"shop\"}: a", "INFO session{id=\"one\" target=\"shop\"}: b"];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_span_within_a_span_is_its_child() {
        let inner = || -> Vec<Saying> {
            let speaks = async {
                let inner = InSpan::new(info_span!("tunnel"), saying(&["a"]));
                inner.await;
                info!("b");
            };
            vec![InSpan::new(info_span!("session"), Box::pin(speaks))]
        };
        let lines = written("info", inner);
        assert_eq!(lines, ["INFO session:tunnel: a", "INFO between", "INFO session: b", "INFO between"]);
    }
}
