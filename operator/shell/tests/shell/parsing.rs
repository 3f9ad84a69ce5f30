//! What is typed, and what is answered to what cannot be understood.

use epic_lb::TableId;
use epic_shell::{Command, Form, Request, Rows};

fn error(line: &str) -> String {
    Request::parse(line).unwrap_err().to_string()
}

#[test]
fn a_key_may_be_several_words_and_the_form_may_stand_anywhere() {
    let key = Rows::Key("acme/web 100.64.0.1:0/ANY".to_owned());
    let command = Command::List(TableId::Backend, key);
    for line in [
        "db get backends acme/web 100.64.0.1:0/ANY -o json",
        "-o json db get backends   acme/web 100.64.0.1:0/ANY",
        "db get backends acme/web --output=json 100.64.0.1:0/ANY",
    ] {
        assert_eq!(Request::parse(line), Ok(Request { command: command.clone(), form: Form::Json }));
    }
    let help = Request { command: Command::Help, form: Form::Text };
    assert_eq!(Request::parse("  "), Ok(help));
}

#[test]
fn an_error_says_what_to_type() {
    assert_eq!(error("db get backends"), "type: db get TABLE KEY");
    assert_eq!(error("db show"), "type: db show TABLE");
    assert_eq!(error("health now"), "type: health");
    assert_eq!(error("selection"), "type: selection VIP:PORT[/PROTOCOL]");
    assert_eq!(error("reconciler status frontends now"), "type: reconciler status [TABLE]");
    assert_eq!(
        error("lb-maps"),
        "\"lb-maps\" is no command; type one of: lb-maps dump [TEXT|VIP[:PORT]], lb-maps check"
    );
    let unknown = error("table frontends");
    assert!(unknown.starts_with("\"table frontends\" is no command; type one of: db tables, "), "{unknown}");
    assert_eq!(
        error("db show frontend"),
        "no table is named \"frontend\"; there are services, frontends, wishes, backends, verdicts, redirects, \
         tunnels, proxies, aliases, passes, nodes"
    );
    assert_eq!(error("health -o yaml"), "-o takes text or json, not \"yaml\"");
    assert_eq!(error("health -o"), "-o takes text or json, not \"\"");
    for wrong in ["192.0.2.7", "192.0.2.7:80/QUIC", "2001:db8::7:443/"] {
        assert!(error(&format!("selection {wrong}")).contains("is no address with a port; type for example"));
    }
}
