/// Declares the `Connection` of a runtime.
macro_rules! connection {
    ($runtime:ty, $name:literal) => {
        #[doc = concat!("A connection on ", $name, ".")]
        ///
        /// It dereferences to the [`Connection`](amqp_client_core::Connection) of all runtimes, which has its methods. A
        /// task of the runtime reads and writes the socket, and ends with the connection.
        #[derive(Clone, Debug)]
        pub struct Connection {
            connection: amqp_client_core::Connection,
        }

        impl Connection {
            /// Connects to the broker of a URI such as `amqp://user:password@host:5672/vhost?heartbeat=10`. With several hosts,
            /// tries one after the other.
            ///
            /// If the connection is lost later, the client reconnects and restores everything that was declared and consumed: see
            /// [recovery](amqp_client_core::recovery).
            ///
            /// # Errors
            /// [`ConnectError`](amqp_client_core::ConnectError), as [`open_target`](Self::open_target).
            ///
            /// # Cancel safety
            /// Dropping the future aborts the attempt.
            pub async fn open(uri: &str) -> Result<Self, amqp_client_core::ConnectError> {
                Self::open_target(uri.parse()?).await
            }

            /// Connects to the first node of `target` that accepts the connection. The
            /// [`connect_timeout`](amqp_client_core::Settings::connect_timeout) applies to each node.
            ///
            /// # Errors
            /// [`ConnectError`](amqp_client_core::ConnectError). If a node refuses what every node would refuse, such as the
            /// credentials, no further node is tried. Otherwise this is the first refusal by a node that was reached, or else
            /// the error of the last node.
            ///
            /// # Cancel safety
            /// Dropping the future aborts the attempt.
            pub async fn open_target(
                target: amqp_client_core::Target,
            ) -> Result<Self, amqp_client_core::ConnectError> {
                let connection = amqp_client_core::connect::open::<$runtime>(target).await?;
                Ok(Self { connection })
            }

            /// Begins a connection over any stream with the traits of `futures-io`: a Unix socket, a proxy's tunnel, an
            /// in-memory pipe. Returns the connection and the future that drives it until it is closed. Spawn or poll this
            /// future: without it, nothing happens.
            pub fn open_with<S>(
                stream: S,
                config: amqp_client_core::Config,
            ) -> (Self, impl std::future::Future<Output = ()> + Send)
            where
                S: futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin,
            {
                let stream = $crate::stream::Stream(stream);
                let (connection, drive) =
                    amqp_client_core::connect::begin::<$runtime, _>(stream, config);
                (Self { connection }, drive)
            }

            /// Like [`open_with`](Self::open_with), inside a TLS session with `host`.
            ///
            /// # Errors
            /// [`TlsError`](amqp_client_core::tls::TlsError), if the TLS configuration is invalid.
            #[cfg(feature = "tls")]
            pub fn open_tls_with<S>(
                stream: S,
                tls: &amqp_client_core::tls::TlsOptions,
                host: &str,
                config: amqp_client_core::Config,
            ) -> Result<
                (Self, impl std::future::Future<Output = ()> + Send + use<S>),
                amqp_client_core::tls::TlsError,
            >
            where
                S: futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin,
            {
                let stream = $crate::stream::Stream(stream);
                let (connection, drive) =
                    amqp_client_core::connect::begin_tls::<$runtime, _>(stream, tls, host, config)?;
                Ok((Self { connection }, drive))
            }
        }

        impl std::ops::Deref for Connection {
            type Target = amqp_client_core::Connection;

            fn deref(&self) -> &Self::Target {
                &self.connection
            }
        }
    };
}
pub(crate) use connection;
