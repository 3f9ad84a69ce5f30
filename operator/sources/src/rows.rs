//! What a source says of one service.

use epic_lb::{Backend, Frontend, Redirect, Service, WriteTxn};

/// A service with everything that is its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// The service.
    pub service: Service,
    /// Its frontends.
    pub frontends: Vec<Frontend>,
    /// Its backends.
    pub backends: Vec<Backend>,
    /// Where its traffic goes instead.
    pub redirect: Option<Redirect>,
}

impl Rows {
    /// Makes the tables hold these rows of the service, as far as the source of the transaction says anything of it.
    pub fn write(self, txn: &mut WriteTxn<'_>) {
        let name = self.service.name.clone();
        if let Err(error) = txn.upsert_service_and_frontends(self.service, self.frontends) {
            tracing::error!(service = %name, %error, "not served");
        }
        txn.set_backends(&name, self.backends);
        txn.set_redirect(&name, self.redirect);
    }
}
