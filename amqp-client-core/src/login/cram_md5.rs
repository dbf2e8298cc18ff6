use std::fmt;
use std::sync::Arc;

use amqp_proto::uri::Password;
use amqp_proto::{Mechanism, SaslError, SaslExchange, Secret};
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Md5;

/// `CRAM-MD5` (RFC 2195): the client proves that it has the password without sending it. An attacker who records the login can
/// still search for the password. Use TLS, and use this mechanism only with brokers that offer no better one.
#[derive(Clone)]
pub struct CramMd5 {
    username: String,
    password: Password,
}

impl CramMd5 {
    /// Logs in as `username`.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: Password::from(password.into()) }
    }

    /// Returns the user's name, and the digest that proves knowledge of the password.
    fn respond(&self, challenge: &[u8]) -> Result<Secret, SaslError> {
        let mut proof = Hmac::<Md5>::new_from_slice(self.password.expose().as_bytes())
            .map_err(|_| SaslError::BadChallenge("its digest cannot be computed"))?;
        proof.update(challenge);
        let digest = proof.finalize().into_bytes();
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Secret::from(format!("{} {digest}", self.username)))
    }
}

impl Mechanism for CramMd5 {
    fn name(&self) -> &str {
        "CRAM-MD5"
    }

    fn username(&self) -> Option<&str> {
        Some(&self.username)
    }

    fn begin(&self) -> Box<dyn SaslExchange> {
        let own = self.clone();
        let mut challenged = false;
        Box::new(move |challenge: Option<&[u8]>| match challenge {
            // The server speaks first; the initial response is empty.
            None => Ok(Secret::default()),
            Some(_) if std::mem::replace(&mut challenged, true) => {
                Err(SaslError::UnexpectedChallenge)
            }
            Some([]) => Err(SaslError::BadChallenge("it is empty")),
            Some(challenge) => own.respond(challenge),
        })
    }

    fn with_secret(&self, secret: &Secret) -> Option<Arc<dyn Mechanism>> {
        let password = Password::try_from(secret).ok()?;
        Some(Arc::new(Self { username: self.username.clone(), password }))
    }
}

impl fmt::Debug for CramMd5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CramMd5").field("username", &self.username).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 2195, section 3.
    #[test]
    fn the_example_of_its_specification() -> Result<(), SaslError> {
        let mechanism = CramMd5::new("tim", "tanstaaftanstaaf");
        let mut exchange = mechanism.begin();
        assert_eq!(exchange.respond(None)?.expose(), b"");
        let challenge = b"<1896.697170952@postoffice.reston.mci.net>";
        let response = exchange.respond(Some(challenge))?;
        assert_eq!(response.expose(), b"tim b913a602c7eda7a495b4e6e7334d3890");
        assert_eq!(exchange.respond(Some(challenge)), Err(SaslError::UnexpectedChallenge));
        assert!(mechanism.begin().respond(Some(b"")).is_err());
        assert!(!format!("{mechanism:?}").contains("tanstaaf"));
        Ok(())
    }
}
