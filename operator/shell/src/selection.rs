//! `selection`: who takes the new flows of a frontend, who keeps what it has, and why.

use std::sync::Arc;

use epic_lb::selection::Explained;
use epic_lb::{
    Frontend, FrontendKey, MapKey, Progress, Protocol, Redirect, RedirectWhen, Role, RowId, Selection,
    Snapshot,
};
use epic_reconciler::Status;
use epic_store::{Line, Listing, Stored};
use serde_json::{Value, json};

use crate::command::Asked;
use crate::side::MapSide as _;
use crate::{Error, Form, Subject, pretty};

pub(crate) fn selection(subject: &impl Subject, asked: &Asked, form: Form) -> Result<String, Error> {
    let (tables, progress) = (subject.tables(), subject.progress());
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let wanted = protocols.into_iter().filter(|protocol| asked.protocol.is_none_or(|one| one == *protocol));
    let scopes = [epic_lb::Scope::External, epic_lb::Scope::Internal];
    let keys = wanted.flat_map(|protocol| {
        let key = FrontendKey::new(asked.address, asked.port, protocol);
        scopes.map(|scope| FrontendKey { scope, ..key })
    });
    let found: Vec<_> = keys.filter_map(|key| tables.frontends.get(key)).collect();
    if found.is_empty() {
        return Err(Error::NoFrontend { asked: asked.to_string(), address: asked.address.to_string() });
    }
    let views: Vec<Chosen<'_>> =
        found.into_iter().map(|frontend| Chosen::of(subject, &tables, &progress, frontend)).collect();
    Ok(match form {
        Form::Json => pretty(&views.iter().map(Chosen::json).collect()),
        Form::Text => views.iter().map(Chosen::text).collect::<Vec<_>>().join("\n"),
    })
}

/// The selection of one frontend.
struct Chosen<'a> {
    frontend: &'a Arc<Stored<Frontend>>,
    /// How the frontend stands in the maps.
    status: String,
    /// Services that would like to have this address.
    waiting: Vec<String>,
    panic: bool,
    redirect: Option<String>,
    backends: Vec<(Explained<'a>, Option<String>)>,
}

impl<'a> Chosen<'a> {
    fn of(
        subject: &'a impl Subject,
        tables: &'a Snapshot,
        progress: &Progress,
        frontend: &'a Arc<Stored<Frontend>>,
    ) -> Self {
        let selection = Selection::of(tables, frontend, subject.side().here());
        let status = match progress.status(RowId::Frontend(frontend.key), frontend.revision) {
            Status::Done => "in the maps".to_owned(),
            Status::Pending => "being written".to_owned(),
            Status::Error(why) => why.to_string(),
        };
        let redirect = tables.redirect_of(frontend.service.id());
        let mut backends: Vec<_> = selection.explain().into_iter().map(|one| (one, None)).collect();
        for (one, unwritten) in &mut backends {
            let proxy = one.backend.proxy_id();
            *unwritten = proxy.and_then(|id| match tables.proxies.get(id) {
                None => Some(format!("there is no proxy {id} yet")),
                Some(row) if row.service != frontend.service => {
                    Some(format!("proxy {id} is of {} and listens for that one alone", row.service))
                }
                Some(_) => progress.failure(RowId::Proxy(id)).map(|failing| {
                    let own = format!("{}: ", MapKey::Proxy(id.get()));
                    failing.text.strip_prefix(&own).unwrap_or(&failing.text).to_owned()
                }),
            });
        }
        Self {
            frontend,
            status,
            waiting: tables.wishes.prefix(frontend.key).map(|wish| wish.0.service.to_string()).collect(),
            panic: selection.in_panic(),
            redirect: redirect.map(|redirect| redirected(redirect, &selection)),
            backends,
        }
    }

    fn json(&self) -> Value {
        let backends: Vec<Value> = self
            .backends
            .iter()
            .map(|(one, unwritten)| {
                json!({
                    "backend": epic_store::Row::key(&one.backend.row).to_string(),
                    "role": role(one.role),
                    "weight": one.backend.weight,
                    "why-not": one.why.as_ref().map(ToString::to_string),
                    "not-in-maps": unwritten,
                })
            })
            .collect();
        json!({
            "frontend": self.frontend.key.to_string(),
            "service": self.frontend.service.to_string(),
            "status": self.status,
            "waiting": self.waiting,
            "panic": self.panic,
            "redirect": self.redirect,
            "backends": backends,
        })
    }

    fn text(&self) -> String {
        let mut out =
            format!("frontend  {} of {}, {}\n", self.frontend.key, self.frontend.service, self.status);
        if !self.waiting.is_empty() {
            out += &format!("waiting   {}\n", self.waiting.join(", "));
        }
        if self.panic {
            out += "panic     too few are healthy: verdicts of health are ignored\n";
        }
        if let Some(redirect) = &self.redirect {
            out += &format!("redirect  {redirect}\n");
        }
        if !self.backends.iter().any(|(one, _)| one.role == Some(Role::Serving)) {
            out += "nothing takes new flows: they are dropped\n";
        }
        let lines = self.backends.iter().map(|(one, unwritten)| {
            let why = match (&one.why, unwritten) {
                (Some(why), _) => why.to_string().into(),
                (None, Some(unwritten)) => format!("not in the maps: {unwritten}").into(),
                (None, None) => Value::Null,
            };
            let key = epic_store::Row::key(&one.backend.row).to_string();
            Line {
                revision: 0,
                cells: vec![key.into(), role(one.role).into(), one.backend.weight.into(), why],
            }
        });
        let mut lines: Vec<Line> = lines.collect();
        lines.sort_by(|a, b| epic_store::natural(&a.key(), &b.key()));
        if !lines.is_empty() {
            out += &Listing { columns: vec!["backend", "role", "weight", "why-not"], lines }.to_string();
        }
        out
    }
}

fn role(role: Option<Role>) -> &'static str {
    match role {
        Some(Role::Serving) => "serving",
        Some(Role::ExistingOnly) => "existing-only",
        None => "not-reached",
    }
}

fn redirected(redirect: &Redirect, selection: &Selection<'_>) -> String {
    let state = match (selection.redirected_to(), redirect.when) {
        (Some(_), _) => "now",
        (None, RedirectWhen::NothingServes) if selection.serves() => "not now: something of its own does",
        (None, RedirectWhen::NothingServes) => "not now: nothing serves there either",
        (None, RedirectWhen::ServesHere) => "not now: nothing there serves on this node",
    };
    format!("to {} while {}, {state}", redirect.to, redirect.when)
}
