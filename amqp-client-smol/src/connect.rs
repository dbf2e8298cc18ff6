/// Declares the functions that connect on a runtime.
macro_rules! functions {
    ($runtime:ty, $name:literal) => {
        /// Connects to the broker of a URI such as `amqp://user:password@host:5672/vhost?heartbeat=10`. With several hosts,
        /// tries one after the other.
        #[doc = concat!("A task of ", $name, " reads and writes the socket, and ends with the connection.")]
        ///
        /// If the connection is lost later, the client reconnects and restores everything that was declared and consumed: see
        /// [recovery](crate::recovery).
        ///
        /// # Errors
        /// [`ConnectError`](crate::ConnectError), as [`connect_target`].
        ///
        /// # Cancel safety
        /// Dropping the future aborts the attempt.
        pub async fn connect(uri: &str) -> Result<$crate::Connection, $crate::ConnectError> {
            connect_target(uri.parse()?).await
        }

        /// Connects to the first node of `target` that accepts the connection. The
        /// [`connect_timeout`](crate::Settings::connect_timeout) applies to each node.
        ///
        /// # Errors
        /// [`ConnectError`](crate::ConnectError). If a node refuses something that every node would refuse, such as the
        /// credentials, no further node is tried. Otherwise, the error is the first refusal by a node that was reached, or, if
        /// none was reached, the error of the last node.
        ///
        /// # Cancel safety
        /// Dropping the future aborts the attempt.
        pub async fn connect_target(
            target: $crate::Target,
        ) -> Result<$crate::Connection, $crate::ConnectError> {
            amqp_client_core::adapter::open::<$runtime>(target).await
        }

        /// Returns a connection at once, and connects it in the background, for a program that starts before its broker can be
        /// reached. The first connection is retried as [`recovery`](crate::Target::recovery) configures, without
        /// [`retry_open`](crate::Target::retry_open). Until the connection is open, it behaves as during an outage, and
        /// [`ready`](crate::Connection::ready) waits for it; see [recovery](crate::recovery#connecting-in-the-background).
        ///
        /// # Errors
        /// [`ConnectError`](crate::ConnectError), if the target itself is invalid: a setting, the TLS configuration, or no
        /// endpoint. Everything else ends the connection, and [`closed`](crate::Connection::closed) returns the reason: for example
        /// credentials that the broker refuses.
        pub fn connect_in_background(
            target: $crate::Target,
        ) -> Result<$crate::Connection, $crate::ConnectError> {
            amqp_client_core::adapter::open_in_background::<$runtime>(target)
        }

        /// Begins a connection over any stream with the traits of `futures-io`: a Unix socket, a proxy's tunnel, an in-memory
        /// pipe. Returns the connection and the future that drives it until it is closed. Spawn or poll this future: without
        /// it, nothing happens.
        pub fn connect_over<S>(
            stream: S,
            config: $crate::Config,
        ) -> ($crate::Connection, impl std::future::Future<Output = ()> + Send + use<S>)
        where
            S: futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin,
        {
            let stream = $crate::stream::Stream::new(stream);
            amqp_client_core::adapter::begin::<$runtime, _>(stream, config)
        }

        /// Like [`connect_over`], inside a TLS session with `host`.
        ///
        /// # Errors
        /// [`TlsError`](crate::tls::TlsError), if the TLS configuration is invalid.
        #[cfg(feature = "tls")]
        pub fn connect_tls_over<S>(
            stream: S,
            tls: &$crate::tls::TlsOptions,
            host: &str,
            config: $crate::Config,
        ) -> Result<
            ($crate::Connection, impl std::future::Future<Output = ()> + Send + use<S>),
            $crate::tls::TlsError,
        >
        where
            S: futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin,
        {
            let stream = $crate::stream::Stream::new(stream);
            amqp_client_core::adapter::begin_tls::<$runtime, _>(stream, tls, host, config)
        }
    };
}
pub(crate) use functions;
