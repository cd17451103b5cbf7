//! A session that fails by a bug ends alone.

use std::io::{Read as _, Write as _};
use std::net::TcpStream as Client;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt as _;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_panic_ends_one_session_and_gives_its_place_back() {
    let sessions = Arc::new(AtomicUsize::new(0));
    let acceptor = Acceptor::serving(1, Arc::new(Semaphore::new(1)), move |mut stream, _peer| {
        let number = sessions.fetch_add(1, Ordering::Relaxed);
        async move {
            assert!(number > 0, "a bug");
            stream.write_all(b"served").await.unwrap();
        }
    });
    let acceptor = acceptor.unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    acceptor.listen(Listeners { v4: listener, v6: None }).unwrap();
    let mut heard = Vec::new();
    for _ in 0..4 {
        let said = tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(address).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            client.flush().unwrap();
            let mut said = Vec::new();
            // A reset is an end, too.
            let _ended = client.read_to_end(&mut said);
            String::from_utf8(said).unwrap()
        });
        heard.push(said.await.unwrap());
        // There is room for one at a time: the next needs the place of this one.
        for _ in 0..500 {
            if acceptor.connections() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert_eq!(heard, ["", "served", "served", "served"]);
    assert!(acceptor.pulse.is_fresh());
}
