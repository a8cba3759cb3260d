//! The small picture for dashboards is of the newest picture.

use camera_agent::picture::small;

use crate::support::{Broker, Lens, Observer, Setup, jpeg, numbered, put};

#[tokio::test]
async fn of_a_source_that_pauses_the_newest_picture_is_published_once_the_interval_is_over() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &Lens::watched("[image]\ninterval-s = 2\n[motion]\nstill-interval-s = 0"));
    Lens::make(&setup);
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|_| true).await;
    let mut lens = Lens::open(&setup).await;
    for seed in [1, 2] {
        lens.show(&jpeg(320, 240, seed));
        observer.head(|head| head.next == u64::from(seed)).await;
    }
    // The command is silent from now on.
    observer.image(&small(&jpeg(320, 240, 2)).unwrap()).await;
}

#[tokio::test]
async fn the_last_picture_of_an_input_is_published_at_its_end() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, "kind = \"folder\"\npath = \"FOLDER/pictures\"\n[image]\ninterval-s = 86400");
    let files = numbered(5);
    put(&setup, &files);
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.image(&small(&files[4].1).unwrap()).await;
}
