//! How long a proxy takes from the publication of a view until it has acknowledged it.
//!
//! Measured is only what a stream has seen from the beginning: of a view that was there before the stream, the time since
//! its publication says how old the view is, and nothing about the proxy.

use std::time::Duration;

use tokio::time::Instant;

use crate::engine::{Revision, Version};
use crate::views::Published;

/// What one stream has measured.
#[derive(Debug)]
pub(super) struct Convergence {
    opened: Instant,
    configured: Option<Revision>,
    assigned: Option<Version>,
}

/// What came out of a change of progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Converged {
    /// All clusters and listeners were acknowledged, after so long.
    pub(super) configured: Option<Duration>,
    /// All assignments were acknowledged, after so long.
    pub(super) assigned: Option<Duration>,
}

impl Convergence {
    pub(super) fn of_a_stream_opened_at(opened: Instant) -> Self {
        Self { opened, configured: None, assigned: None }
    }

    /// The client of a stream that serves `published` has acknowledged these by `now`. Each is measured once.
    pub(super) fn progressed(
        &mut self,
        published: &Published,
        configured: Option<Revision>,
        assigned: Option<Version>,
        now: Instant,
    ) -> Converged {
        let opened = self.opened;
        let since = |at: Instant| (at >= opened).then(|| now.duration_since(at));
        let mut converged = Converged::default();
        if configured != self.configured && configured == Some(published.view.revision()) {
            self.configured = configured;
            converged.configured = since(published.at);
        }
        if assigned != self.assigned && assigned == Some(published.view.assignments()) {
            self.assigned = assigned;
            converged.assigned = since(published.assignments_at);
        }
        converged
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::{advance, pause};

    use super::*;
    use crate::engine::{Kind, Resource, View};
    use crate::identity::Identity;
    use crate::views::Views;

    /// A view with these contents, as it stands when it is published now.
    fn publish(views: &Arc<Views>, listener: &str, assignment: &str) -> Published {
        let web = Identity::new("red", "web", "u");
        let resources = [
            Resource::new(Kind::Listener, "a", listener.into()),
            Resource::new(Kind::Assignment, "a", assignment.into()),
        ];
        views.publish(&web, View::new(1, resources));
        views.follow(&web).borrow().clone().unwrap()
    }

    fn taken(convergence: &mut Convergence, published: &Published) -> Converged {
        let (revision, assignments) = (published.view.revision(), published.view.assignments());
        convergence.progressed(published, Some(revision), Some(assignments), Instant::now())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_view_that_was_there_before_the_stream_is_not_measured_and_a_later_one_is_once() {
        pause();
        let views = Views::new();
        let old = publish(&views, "1", "1");
        advance(2 * SECOND).await;
        let mut convergence = Convergence::of_a_stream_opened_at(Instant::now());
        assert_eq!(taken(&mut convergence, &old), Converged::default());
        let new = publish(&views, "2", "2");
        advance(SECOND).await;
        let converged = Converged { configured: Some(SECOND), assigned: Some(SECOND) };
        assert_eq!(taken(&mut convergence, &new), converged);
        assert_eq!(taken(&mut convergence, &new), Converged::default());
    }

    #[tokio::test]
    async fn a_change_of_endpoints_does_not_make_listeners_younger_nor_the_other_way_round() {
        pause();
        let views = Views::new();
        let mut convergence = Convergence::of_a_stream_opened_at(Instant::now());
        publish(&views, "1", "1");
        advance(SECOND).await;
        publish(&views, "1", "2");
        advance(SECOND).await;
        let last = publish(&views, "1", "3");
        advance(SECOND).await;
        let converged = Converged { configured: Some(3 * SECOND), assigned: Some(SECOND) };
        assert_eq!(taken(&mut convergence, &last), converged);
        let next = publish(&views, "2", "3");
        assert_eq!(taken(&mut convergence, &next).assigned, None, "these are acknowledged already");
    }
}
