//! The certificate authorities of the system.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::RootCertStore;

use super::TlsError;

/// Time after which the system's authorities are read again.
const FRESH: Duration = Duration::from_secs(60);

/// The authorities that were read last, for all connections of the process: if many connect at once, the first one reads for all.
static LAST: Mutex<Last> = Mutex::new(Last(None));

/// Returns the certificate authorities of the system, as they were at most [`FRESH`] ago.
pub(super) fn roots() -> Result<Arc<RootCertStore>, TlsError> {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    last.get(Instant::now(), read)
}

fn read() -> Result<RootCertStore, TlsError> {
    let system = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        let errors: Vec<_> = system.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::NoSystemRoots(errors.join("; ")));
    }
    Ok(roots)
}

struct Last(Option<(Instant, Arc<RootCertStore>)>);

impl Last {
    fn get(
        &mut self,
        now: Instant,
        read: impl FnOnce() -> Result<RootCertStore, TlsError>,
    ) -> Result<Arc<RootCertStore>, TlsError> {
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < FRESH;
        if let Some((_, roots)) = self.0.as_ref().filter(|(at, _)| fresh(at)) {
            return Ok(roots.clone());
        }
        let roots = Arc::new(read()?);
        self.0 = Some((now, roots.clone()));
        Ok(roots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_read_once_a_minute_and_again_after_an_error() {
        let (mut last, began, mut reads) = (Last(None), Instant::now(), 0);
        let mut get = |seconds, works: bool| {
            let roots = last.get(began + Duration::from_secs(seconds), || {
                reads += 1;
                let none = || TlsError::NoSystemRoots("no file".into());
                works.then(RootCertStore::empty).ok_or_else(none)
            });
            (roots.is_ok(), reads)
        };
        assert_eq!(get(0, false), (false, 1));
        assert_eq!(get(0, true), (true, 2));
        assert_eq!(get(59, false), (true, 2));
        assert_eq!(get(60, false), (false, 3));
        assert_eq!(get(60, true), (true, 4));
        assert_eq!(get(119, true), (true, 4));
    }
}
