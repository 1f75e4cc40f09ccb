//! Bulk through the library's own async API, as its own benchmark does it: unidirectional streams, `write_all`, its default settings.
//!
//!     noq-bulk receive ADDR:PORT DIR            for ever; a line of JSON for each connection that has ended
//!     noq-bulk send ADDR:PORT DIR FLOWS SECONDS a line of JSON at the end
//!
//! DIR has `cert.pem` and `key.pem`, the same at both ends. One thread each, so processor time is that of the one thread.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use noq::{ClientConfig, Connection, Endpoint, ServerConfig};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The name in the certificate that the measurements make.
const NAME: &str = "relay.test";
/// One call's bytes, the size of the library's own benchmark.
const LARGE: usize = 1 << 20;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments[..] {
        ["receive", at, folder] => runtime.block_on(receive(at.parse()?, Path::new(folder))),
        ["send", to, folder, flows, seconds] => runtime.block_on(send(
            to.parse()?,
            Path::new(folder),
            flows.parse()?,
            Duration::from_secs_f64(seconds.parse()?),
        )),
        _ => Err("receive ADDR:PORT DIR, or send ADDR:PORT DIR FLOWS SECONDS".into()),
    }
}

async fn receive(at: SocketAddr, folder: &Path) -> Result<(), Failure> {
    let certificate = CertificateDer::from_pem_file(folder.join("cert.pem"))?;
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"))?;
    let endpoint = Endpoint::server(ServerConfig::with_single_cert(vec![certificate], key)?, at)?;
    println!("ready");
    while let Some(incoming) = endpoint.accept().await {
        let connection = incoming.await?;
        let (began, cpu) = (Instant::now(), cpu_ns()?);
        let bytes = drain(connection).await;
        report(bytes, cpu_ns()? - cpu, began.elapsed());
    }
    Ok(())
}

/// Reads every stream to its end, until the connection is closed.
async fn drain(connection: Connection) -> u64 {
    let received = Arc::new(AtomicU64::new(0));
    while let Ok(mut stream) = connection.accept_uni().await {
        let received = Arc::clone(&received);
        tokio::spawn(async move {
            while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX).await {
                received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
        });
    }
    received.load(Ordering::Relaxed)
}

async fn send(to: SocketAddr, folder: &Path, flows: usize, time: Duration) -> Result<(), Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("cert.pem"))?)?;
    let endpoint = Endpoint::client(SocketAddr::new([0u8; 4].into(), 0))?;
    endpoint.set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots))?);
    let connection = endpoint.connect(to, NAME)?.await?;
    let (began, cpu) = (Instant::now(), cpu_ns()?);
    let tasks: Vec<_> = (0..flows).map(|_| tokio::spawn(flow(connection.clone(), began + time))).collect();
    let mut bytes = 0;
    for task in tasks {
        bytes += task.await??;
    }
    report(bytes, cpu_ns()? - cpu, began.elapsed());
    connection.close(0u32.into(), b"done");
    endpoint.wait_idle().await;
    Ok(())
}

async fn flow(connection: Connection, until: Instant) -> Result<u64, Failure> {
    let mut stream = connection.open_uni().await?;
    let data = vec![7; LARGE];
    let mut sent = 0;
    while Instant::now() < until {
        stream.write_all(&data).await?;
        sent += data.len() as u64;
    }
    stream.finish()?;
    // Until the other end has all of it.
    stream.stopped().await?;
    Ok(sent)
}

/// Processor time of this process' one thread, by the scheduler's count.
fn cpu_ns() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    Ok(text.split_ascii_whitespace().next().ok_or("schedstat is empty")?.parse()?)
}

fn report(bytes: u64, cpu_ns: u64, took: Duration) {
    println!("{{\"bytes\": {bytes}, \"cpu_ns\": {cpu_ns}, \"seconds\": {}}}", took.as_secs_f64());
}
